// The Vercel AI SDK's cohere provider, and the snippets of docs/clients/vercel-ai.md.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { after, before, test } from 'node:test';

import { createCohere } from '@ai-sdk/cohere';
import { rerank } from 'ai';

globalThis.AI_SDK_LOG_WARNINGS = false;

const { RERANKER_URL, RERANKER_KEYED_URL, RERANKER_KEY, RERANKER_PAGE } = process.env;

const query = 'How do I fix error 6102 in fusappel?';
const passages = [
  'Fusappel is the internal telephone directory.',
  'Error 6102 in fusappel: check the configuration file, then restart the service.',
  "The canteen is open from noon to two o'clock.",
  'Erreur 6102 : la configuration de fusappel est incomplète.',
];
const tooMany = Array.from({ length: 65 }, (_, i) => `Section ${i}`);

// The order and the scores of the service's own format.
let native;
before(async () => {
  const documents = passages.map((content, index) => ({ content, index }));
  const response = await fetch(`${RERANKER_URL}/rerank`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ query, documents, top_k: documents.length }),
  });
  native = (await response.json()).documents.map((d) => [d.index, d.rerank_score]);
});

function same(ranking, expected) {
  assert.deepEqual(
    ranking.map((r) => r.originalIndex),
    expected.map(([index]) => index),
  );
  ranking.forEach((r, i) => assert.ok(Math.abs(r.score - expected[i][1]) <= 1e-6));
}

const model = (baseURL, apiKey = 'any') => createCohere({ baseURL, apiKey }).reranking('any');

// A proxy that keeps what was said.
async function spy(target) {
  const exchanges = [];
  const server = createServer((incoming, outgoing) => {
    const { method, url, headers } = incoming;
    const upstream = request(target + url, { method, headers }, (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('end', () => {
        const body = Buffer.concat(chunks);
        exchanges.push({ path: url, status: answer.statusCode, body: body.toString() });
        outgoing.writeHead(answer.statusCode, answer.headers).end(body);
      });
    });
    incoming.pipe(upstream);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, exchanges };
}

test('order and scores', async () => {
  const { ranking } = await rerank({ model: model(`${RERANKER_URL}/v2`), query, documents: passages });
  same(ranking, native);
  assert.deepEqual(
    ranking.map((r) => r.document),
    native.map(([index]) => passages[index]),
  );
});

test('topN and options of the provider', async () => {
  const { ranking, response } = await rerank({
    model: model(`${RERANKER_URL}/v2`),
    query,
    documents: passages,
    topN: 2,
    providerOptions: { cohere: { maxTokensPerDoc: 1000, priority: 1 } },
  });
  same(ranking, native.slice(0, 2));
  assert.ok(response.id);
});

test('objects go as text', async () => {
  const documents = passages.map((text, id) => ({ id, text }));
  const { ranking } = await rerank({ model: model(`${RERANKER_URL}/v2`), query, documents });
  assert.equal(ranking.length, documents.length);
  assert.equal(ranking[0].document.text, passages[ranking[0].originalIndex]);
});

for (const path of ['/v1', '']) {
  test(`a base URL that ends in "${path}" works too`, async () => {
    const { ranking } = await rerank({ model: model(RERANKER_URL + path), query, documents: passages });
    same(ranking, native);
  });
}

for (const [name, wrong, status] of [
  ['blank query', { query: ' ' }, 400],
  ['too many documents', { documents: tooMany }, 413],
]) {
  test(`${name}: said once`, async () => {
    const { url, exchanges } = await spy(RERANKER_URL);
    const asked = rerank({ model: model(`${url}/v2`), query, documents: passages, ...wrong });
    const error = await asked.then(() => assert.fail('no error'), (e) => e);
    assert.equal(exchanges.length, 1);
    assert.equal(error.statusCode, status);
    assert.equal(error.message, JSON.parse(exchanges[0].body).message);
    assert.equal(error.isRetryable, false);
  });
}

test('key', async () => {
  const { url, exchanges } = await spy(RERANKER_KEYED_URL);
  const wrong = rerank({ model: model(`${url}/v2`, 'wrong'), query, documents: passages });
  const error = await wrong.then(() => assert.fail('no error'), (e) => e);
  assert.equal(exchanges.length, 1);
  assert.equal(error.statusCode, 401);
  assert.equal(error.message, JSON.parse(exchanges[0].body).message);
  const { ranking } = await rerank({ model: model(`${url}/v2`, RERANKER_KEY), query, documents: passages });
  same(ranking, native);
});

// A snippet, and what it prints.
const page = readFileSync(RERANKER_PAGE, 'utf8');
const snippets = [...page.matchAll(/^```js\n(.*?)^```\n\s*^```text\n(.*?)^```$/gms)];

test('the page has snippets', () => assert.ok(snippets.length > 0));

snippets.forEach(([, code, printed], i) => {
  test(`snippet ${i + 1} of the page`, () => {
    const keyed = code.includes('your-key');
    const file = `snippet-${process.pid}-${i}.mjs`;
    writeFileSync(
      file,
      code
        .replaceAll('http://localhost:8002', keyed ? RERANKER_KEYED_URL : RERANKER_URL)
        .replaceAll('your-key', RERANKER_KEY),
    );
    try {
      assert.equal(execFileSync(process.execPath, [file], { encoding: 'utf8' }), printed);
    } finally {
      rmSync(file);
    }
  });
});
