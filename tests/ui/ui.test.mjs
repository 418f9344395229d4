// The playground in a real browser against a running server.
//
// RERANKER_URL        the server, with the demo model
// RERANKER_KEYED_URL  another that asks for RERANKER_KEY (without them that one test is skipped)
// CHROMIUM            the browser, /usr/bin/chromium by default

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const SERVER = process.env.RERANKER_URL?.replace(/\/$/, '');
const KEYED_SERVER = process.env.RERANKER_KEYED_URL?.replace(/\/$/, '');
const KEY = process.env.RERANKER_KEY;
const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
const EXAMPLE_BEST = 'Forgotten your password? Click “Reset password” on the sign-in page and follow the link in the e-mail.';

const run = promisify(execFile);
let browser;

before(async () => {
  assert.ok(SERVER, 'RERANKER_URL must name a running server, as http://127.0.0.1:8002');
  // Each launch gets a new and empty profile.
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
});

after(() => browser?.close());

// ---------------------------------------------------------------- helpers

/** A test with a fresh page: `options` for the browser's context, `prepare` to run before the page loads. */
function pageTest(name, options, act) {
  test(name, { timeout: 60_000 }, async (t) => {
    const context = await browser.newContext({ locale: 'en-US', viewport: { width: 1280, height: 900 }, ...options });
    context.setDefaultTimeout(15_000);
    try {
      const page = await context.newPage();
      const faults = [];
      page.on('pageerror', (error) => faults.push(error.message));
      page.on('console', (message) => {
        if (message.text().includes('Content Security Policy')) faults.push(message.text());
      });
      await act(page, t);
      assert.deepEqual(faults, [], 'errors in the browser');
    } finally {
      await context.close();
    }
  });
}

async function open(page, server = SERVER) {
  const response = await page.goto(`${server}/ui`);
  await page.locator('.result').first().waitFor();
  return response;
}

/** Does something and waits for the answer that it brings. */
async function answerAfter(page, act) {
  const answered = page.waitForResponse((response) => response.request().method() === 'POST' && response.url().endsWith('rerank'));
  await act();
  await answered;
  await page.locator('#answer[aria-busy="false"]').waitFor();
}

const rankByKey = (page) => answerAfter(page, () => page.keyboard.press('Control+Enter'));

const shownTexts = (page) => page.locator('.result .passage').allTextContents();

/** Scores as the page writes them. */
const shownScores = (page) => page.locator('.result .score').evaluateAll((all) => all.map((score) => score.lastChild.textContent));

async function writeJson(page, body) {
  await page.click('[data-mode="json"]');
  await page.fill('#body', typeof body === 'string' ? body : JSON.stringify(body, null, 2));
}

async function writeText(page, query, passages) {
  await page.fill('#query', query);
  await page.fill('#passages', passages);
}

function luminance(color) {
  const [r, g, b] = color.match(/[\d.]+/g).slice(0, 3).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

/** A colour of an element, and the colour it is seen on. */
function colors(page, selector, property = 'color') {
  return page.locator(selector).first().evaluate((start, name) => {
    let below = name === 'color' ? start : start.parentElement;
    while (getComputedStyle(below).backgroundColor === 'rgba(0, 0, 0, 0)') below = below.parentElement;
    return [getComputedStyle(start)[name], getComputedStyle(below).backgroundColor];
  }, property);
}

const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);

// ---------------------------------------------------------------- first sight

pageTest('the page shows a real ranking at once', {}, async (page) => {
  const failures = [];
  page.on('response', (it) => it.status() >= 400 && failures.push(`${it.status()} ${it.url()}`));
  const response = await open(page);
  assert.equal(response.status(), 200);
  assert.match(response.headers()['content-type'], /^text\/html/);
  assert.match(response.headers()['content-security-policy'], /default-src 'self'/);
  assert.equal(await page.locator('h1').textContent(), 'Which passage answers the question best?');

  const texts = await shownTexts(page);
  assert.equal(texts.length, 6);
  assert.equal(texts[0], EXAMPLE_BEST);
  const scores = await shownScores(page);
  for (const score of scores) assert.match(score, /^[01]\.\d{3}$/);
  assert.deepEqual(scores, [...scores].sort().reverse());

  const bar = await page.locator('.result .bar').first().evaluate((it) => it.style.width);
  assert.ok(Math.abs(parseFloat(bar) - scores[0] * 100) < 0.06, `${bar} for ${scores[0]}`);
  assert.equal(await page.locator('.result .moved').first().textContent(), '↑was 3rd');

  const summary = await page.locator('#summary').textContent();
  assert.match(summary, /Modeldemo/);
  assert.match(summary, /Passages6/);
  assert.match(summary, /Tokens\d+/);
  assert.match(summary, /Time[\d.,]+\sms [\d.,]+\sms of it in the model/);
  assert.match(await page.locator('#status').textContent(), /^6 passages ranked in [\d.,]+\sms\.$/);
  assert.match(await page.locator('#model').textContent(), /^Model demo on \w+, up to 512 tokens at once · version \d/);
  assert.equal(await page.locator('footer a').evaluate((link) => link.href), `${SERVER}/docs/`);
  assert.equal((await page.request.get(`${SERVER}/docs/`)).status(), 200);
  assert.deepEqual(failures, []);
});

pageTest('it works behind a path prefix', {}, async (page) => {
  await page.route('**/some/prefix/**', async (route) => {
    const response = await route.fetch({ url: route.request().url().replace('/some/prefix', '') });
    await route.fulfill({ response });
  });
  await open(page, `${SERVER}/some/prefix`);
  assert.equal((await shownTexts(page))[0], EXAMPLE_BEST);
  assert.match(await page.locator('#curl').textContent(), /\/some\/prefix\/v1\/rerank'/);
});

// ---------------------------------------------------------------- asking

pageTest('typing and Ctrl+Enter rank', {}, async (page) => {
  await open(page);
  await page.fill('#query', 'Which tool shows what fills up my disk?');
  await page.fill('#passages', '');
  await page.locator('#passages').pressSequentially('Fill in the form at the office.\nncdu lists the folders of a disk by the space that they use.');
  assert.equal(await page.locator('#passage-count').textContent(), '2 passages, one per line');
  await rankByKey(page);
  assert.deepEqual(await shownTexts(page), ['ncdu lists the folders of a disk by the space that they use.', 'Fill in the form at the office.']);
});

pageTest('empty lines separate passages of several lines', {}, async (page) => {
  await open(page);
  await page.fill('#passages', 'one line\nand another\n\nsecond passage\n \n\nthird passage\n');
  assert.equal(await page.locator('#passage-count').textContent(), '3 passages, separated by empty lines');
  const shaded = await page.locator('#stripes .shaded').allTextContents();
  assert.deepEqual(shaded, ['one line', 'and another', 'third passage']);
  await rankByKey(page);
  assert.deepEqual((await shownTexts(page)).sort(), ['one line\nand another', 'second passage', 'third passage']);
});

pageTest('options reach the server', {}, async (page) => {
  await open(page);
  const plain = await shownScores(page);
  await page.click('#options summary');
  await page.fill('#top-n', '2');
  await page.fill('#max-chunks', '3');
  await page.check('#raw-scores');
  const sent = page.waitForRequest((request) => request.url().endsWith('/v1/rerank'));
  await rankByKey(page);
  const body = (await sent).postDataJSON();
  assert.deepEqual([body.top_n, body.max_chunks_per_doc, body.raw_scores], [2, 3, true]);

  const raw = await shownScores(page);
  assert.equal(raw.length, 2);
  assert.match(await page.locator('#summary').textContent(), /Passages6 \(2 shown\)/);
  const sigmoid = 1 / (1 + Math.exp(-raw[0]));
  assert.ok(Math.abs(sigmoid - plain[0]) < 0.002, `${raw[0]} is not the logit of ${plain[0]}`);
  const bar = await page.locator('.result .bar').first().evaluate((it) => parseFloat(it.style.width));
  assert.ok(Math.abs(bar - sigmoid * 100) < 0.1);
});

pageTest('missing and wrong input is told beside the field', {}, async (page) => {
  await open(page);
  await writeText(page, ' ', 'a passage');
  await page.keyboard.press('Control+Enter');
  assert.equal(await page.locator('#query-error').textContent(), 'Write a question.');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'query');

  await writeText(page, 'a question', '\n\n');
  await page.keyboard.press('Control+Enter');
  assert.equal(await page.locator('#passages-error').textContent(), 'Write at least one passage.');

  await page.fill('#passages', 'a passage');
  await page.click('#options summary');
  await page.fill('#top-n', '0');
  await page.click('#options summary');
  await page.keyboard.press('Control+Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'top-n', 'the options open to show it');
  assert.ok(await page.locator('#top-n-error').isVisible());
});

pageTest('long passages are cut off until asked for', {}, async (page) => {
  await open(page);
  const long = 'How to reset a forgotten password, word by word. '.repeat(40).trim();
  await writeText(page, 'How can I reset a forgotten password?', `${long}\nshort`);
  await rankByKey(page);
  const first = page.locator('.result', { hasText: 'word by word' });
  const more = first.getByRole('button', { name: 'Show all of it' });
  await more.waitFor();
  assert.equal(await page.locator('.more:visible').count(), 1, 'the short passage has no button');
  const clamped = (await first.boundingBox()).height;
  await more.click();
  assert.ok((await first.boundingBox()).height > clamped * 2);
  assert.equal(await first.getByRole('button', { name: 'Show less' }).getAttribute('aria-expanded'), 'true');
});

pageTest('a new run gives up the one before', {}, async (page) => {
  await open(page);
  let requests = 0;
  await page.route('**/v1/rerank', async (route) => {
    requests += 1;
    if (requests === 1) await new Promise((resolve) => setTimeout(resolve, 1500));
    await route.continue().catch(() => {});
  });
  const failed = page.waitForEvent('requestfailed');
  await page.fill('#passages', 'from the first run');
  await page.keyboard.press('Control+Enter');
  await page.locator('#answer[aria-busy="true"]').waitFor();
  await page.getByRole('button', { name: 'Cancel' }).waitFor();
  await page.fill('#passages', 'from the second run');
  await page.keyboard.press('Control+Enter');
  assert.match((await failed).failure().errorText, /ABORTED/);
  await page.locator('#answer[aria-busy="false"]').waitFor();
  await page.waitForTimeout(1700);
  assert.deepEqual(await shownTexts(page), ['from the second run']);
  assert.ok(await page.locator('#notice').isHidden());
});

// ---------------------------------------------------------------- JSON

const PANDA = 'The giant panda is a bear native to China.';
const OFFICE = 'The office is open from noon.';
const FORMATS = {
  'documents as strings': { query: 'What is a panda bear?', documents: [OFFICE, PANDA] },
  'documents with text': { query: 'What is a panda bear?', documents: [{ text: OFFICE }, { text: PANDA }], top_n: 2 },
  'documents with content': { query: 'What is a panda bear?', documents: [{ content: OFFICE, page: 1 }, { content: PANDA, page: 2 }], top_k: 2 },
  texts: { query: 'What is a panda bear?', texts: [OFFICE, PANDA] },
};

for (const [name, body] of Object.entries(FORMATS)) {
  pageTest(`JSON mode: ${name}`, {}, async (page) => {
    await open(page);
    await writeJson(page, body);
    assert.equal(await page.locator('#body-count').textContent(), '2 passages');
    await answerAfter(page, () => page.click('#run'));
    assert.ok(await page.locator('#notice').isHidden(), await page.locator('#notice').textContent());
    assert.deepEqual(await shownTexts(page), [PANDA, OFFICE]);
    assert.deepEqual(await page.locator('.result .moved').allTextContents(), ['↑was 2nd', '↓was 1st']);
    for (const score of await shownScores(page)) assert.match(score, /^[01]\.\d{3}$/);
    assert.match(await page.locator('#summary').textContent(), /Modeldemo.*Passages2.*Time/);
  });
}

pageTest('JSON mode: faults have a sentence, a line and a column', {}, async (page) => {
  await open(page);
  const faults = [
    ['{\n  "query": "a"\n  "documents": []\n}', 3, 3, 'a comma or a closing bracket should stand here.'],
    ['{"query": "a",}', 1, 15, 'a name in double quotes should stand here.'],
    ['{"query" "a"}', 1, 10, 'a colon should stand here.'],
    ['{"query": }', 1, 11, 'a value should stand here.'],
    ['{"query": "a\n"}', 1, 11, 'this text is not closed, or has a line break or a stray \\ in it.'],
    ['{"query": "a"', 1, 14, 'something is missing at the end.'],
    ['', 1, 1, 'something is missing at the end.'],
    ["{'query': 1}", 1, 2, 'a name in double quotes should stand here.'],
    ['{"a": [1, 2}', 1, 12, 'a comma or a closing bracket should stand here.'],
    ['{} {}', 1, 4, 'a comma or a closing bracket should stand here.'],
  ];
  for (const [text, line, column, fault] of faults) {
    await writeJson(page, text);
    await page.click('#run');
    assert.equal(await page.locator('#body-error').textContent(), `This is not valid JSON. Line ${line}, column ${column}: ${fault}`, text);
    assert.equal(await page.locator('#body').getAttribute('aria-invalid'), 'true');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'body');
  }
  await writeJson(page, '[1]');
  await page.click('#run');
  assert.match(await page.locator('#body-error').textContent(), /must be an object/);
  await writeJson(page, FORMATS.texts);
  assert.ok(await page.locator('#body-error').isHidden(), 'typing takes the fault away');
});

pageTest('switching modes keeps the content', {}, async (page) => {
  await open(page);
  await writeText(page, 'the question', 'first passage\nsecond passage');
  await page.click('#options summary');
  await page.fill('#top-n', '1');
  await page.click('[data-mode="json"]');
  const body = JSON.parse(await page.inputValue('#body'));
  assert.deepEqual(body, { query: 'the question', documents: ['first passage', 'second passage'], top_n: 1 });

  const rich = '{"query": "q", "documents": [{"content": "with metadata", "page": 7}], "top_k": 3}';
  await page.fill('#body', rich);
  await page.click('[data-mode="text"]');
  assert.deepEqual([await page.inputValue('#query'), await page.inputValue('#passages'), await page.inputValue('#top-n')], ['q', 'with metadata', '3']);
  await page.click('[data-mode="json"]');
  assert.equal(await page.inputValue('#body'), rich, 'nothing was changed, so nothing is lost');

  await page.fill('#body', '{ not finished');
  await page.click('[data-mode="text"]');
  assert.equal(await page.inputValue('#passages'), 'with metadata');
  await page.click('[data-mode="json"]');
  assert.equal(await page.inputValue('#body'), '{ not finished');
});

// ---------------------------------------------------------------- taking it away

pageTest('the copied curl command gives the same ranking', { permissions: ['clipboard-read', 'clipboard-write'] }, async (page) => {
  await open(page);
  const passages = ["It's $HOME, `date` and \\n: \"quoted\" !", 'a bear called “panda”', "';echo hacked;'", 'été à la plage'];
  await writeText(page, "What's a panda & a $PATH?", passages.join('\n'));
  await rankByKey(page);
  const texts = await shownTexts(page);
  const scores = await shownScores(page);

  await page.getByRole('button', { name: 'Copy curl command' }).click();
  await page.getByRole('button', { name: 'Copied' }).waitFor();
  const command = await page.evaluate(() => navigator.clipboard.readText());
  const answer = JSON.parse((await run('bash', ['-c', command])).stdout);
  assert.deepEqual(answer.results.map((result) => passages[result.index]), texts);
  assert.deepEqual(answer.results.map((result) => result.relevance_score.toFixed(3)), scores);

  await page.getByRole('button', { name: 'Copy response as JSON' }).click();
  await page.locator('#copy-json', { hasText: 'Copied' }).waitFor();
  const copied = JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
  assert.deepEqual(copied.results, answer.results);
});

pageTest('copying works without the clipboard API, as on plain HTTP', { permissions: ['clipboard-read'] }, async (page) => {
  await page.addInitScript(() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); });
  await open(page);
  await page.click('#copy-curl');
  await page.locator('#copy-curl', { hasText: 'Copied' }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await page.locator('#curl').textContent());
  assert.equal(await page.evaluate(() => document.activeElement.id), 'copy-curl', 'the focus stays');
});

// ---------------------------------------------------------------- language and looks

pageTest('the language is switched, kept, and first taken from the browser', { locale: 'fr-FR' }, async (page) => {
  await open(page);
  assert.equal(await page.getAttribute('html', 'lang'), 'fr');
  assert.equal(await page.locator('h1').textContent(), 'Quel passage répond le mieux à la question ?');
  assert.match((await shownTexts(page))[0], /^Mot de passe oublié \?/);
  assert.match((await shownScores(page))[0], /^0,\d{3}$/);
  assert.equal(await page.locator('.result .moved').first().textContent(), '↑était 3e');

  await answerAfter(page, () => page.click('[data-language="en"]'));
  assert.equal(await page.getAttribute('html', 'lang'), 'en');
  assert.equal((await shownTexts(page))[0], EXAMPLE_BEST, 'an untouched example is translated');

  await open(page);
  assert.equal(await page.locator('h1').textContent(), 'Which passage answers the question best?', 'remembered');
  await page.fill('#query', 'my own question');
  await page.click('[data-language="fr"]');
  assert.equal(await page.inputValue('#query'), 'my own question', 'what was typed stays');
  assert.match((await shownScores(page))[0], /^0,\d{3}$/, 'the ranking that is shown changes its language');
});

pageTest('the page says the same in its HTML and in the English words', {}, async (page) => {
  await open(page);
  const source = await (await page.request.get(`${SERVER}/ui`)).text();
  const [written, shown] = await page.evaluate((html) => {
    const read = (root) => [...root.querySelectorAll('[data-text]')].map((place) => place.textContent);
    return [read(new DOMParser().parseFromString(html, 'text/html')), read(document)];
  }, source);
  assert.deepEqual(written, shown);
  assert.ok(shown.length > 20);
});

for (const [scheme, chosen] of [['light', 'dark'], ['dark', 'light']]) {
  pageTest(`colours: ${scheme} from the system, ${chosen} by choice, both with contrast`, { colorScheme: scheme }, async (page) => {
    await open(page);
    const isDark = async () => luminance((await colors(page, 'h1'))[1]) < 0.1;
    const checkContrast = async () => {
      for (const selector of ['h1', '.titles p', '.hint', '.passage', '.moved', '.rank', '.score', '.primary', '#curl', 'footer a', '[aria-pressed="false"]', '[aria-pressed="true"]']) {
        const [color, below] = await colors(page, selector);
        assert.ok(contrast(color, below) >= 4.5, `${selector}: ${color} on ${below}`);
      }
      const [bar, track] = await colors(page, '.bar', 'backgroundColor');
      assert.ok(contrast(bar, track) >= 3, `bar: ${bar} on ${track}`);
    };
    assert.equal(await isDark(), scheme === 'dark');
    await checkContrast();
    await page.selectOption('#theme', chosen);
    assert.equal(await isDark(), chosen === 'dark');
    // Only resting colours are compared, and buttons under a moving theme settle at once.
    await checkContrast();
    await open(page);
    assert.equal(await isDark(), chosen === 'dark', 'remembered');
    await page.selectOption('#theme', 'auto');
    assert.equal(await isDark(), scheme === 'dark');
  });
}

pageTest('a phone needs no sideways scrolling', { viewport: { width: 360, height: 740 } }, async (page) => {
  await open(page);
  assert.equal(await overflow(page), 0);
  await writeText(page, 'q'.repeat(300), `${'unbroken'.repeat(60)}\nshort`);
  await page.click('#options summary');
  await page.check('#raw-scores');
  await answerAfter(page, () => page.click('#run'));
  assert.equal(await overflow(page), 0, 'with long words');
  await page.locator('#answer-title').waitFor();
  assert.ok((await page.locator('#answer-title').boundingBox()).y < 740, 'the answer comes into view');
  await writeJson(page, '{"query": "", "documents": []}');
  await page.click('[data-language="fr"]');
  await answerAfter(page, () => page.click('#run'));
  await page.locator('#notice').waitFor();
  assert.equal(await overflow(page), 0, 'with an error, in French, in JSON mode');
});

pageTest('everything is reached and used by keyboard alone', {}, async (page) => {
  await open(page);
  const reached = [];
  for (let step = 0; step < 40; step += 1) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(() => {
      const it = document.activeElement;
      if (it === document.body) return null;
      const { outlineStyle, outlineWidth } = getComputedStyle(it);
      const name = it.id || it.dataset.language || it.dataset.mode || it.tagName.toLowerCase();
      return { name, seen: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 };
    });
    if (!stop) break;
    assert.ok(stop.seen, `${stop.name} shows its focus`);
    reached.push(stop.name);
  }
  assert.deepEqual(reached, ['en', 'fr', 'theme', 'text', 'json', 'query', 'passages', 'summary', 'run', 'curl', 'copy-curl', 'copy-json', 'a']);

  const tabTo = async (id) => {
    for (let step = 0; step < 40; step += 1) {
      await page.keyboard.press('Tab');
      if (await page.evaluate((wanted) => (document.activeElement.id || document.activeElement.tagName.toLowerCase()) === wanted, id)) return;
    }
    assert.fail(`${id} was not reached`);
  };
  await tabTo('query');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('What is a panda bear?');
  await tabTo('passages');
  await page.keyboard.press('Control+A');
  await page.keyboard.type(`${OFFICE}\n${PANDA}`);
  await tabTo('summary');
  await page.keyboard.press('Enter');
  await tabTo('top-n');
  await page.keyboard.type('1');
  await tabTo('raw-scores');
  await page.keyboard.press('Space');
  await tabTo('key');
  await tabTo('run');
  await answerAfter(page, () => page.keyboard.press('Enter'));
  assert.deepEqual(await shownTexts(page), [PANDA]);
  assert.equal(await page.evaluate(() => document.activeElement.id), 'run', 'the focus stays');
});

pageTest('every field has a label', {}, async (page) => {
  await open(page);
  const nameless = await page.locator('input, select, textarea').evaluateAll((all) => all.filter((it) => !it.labels[0]?.textContent.trim()).map((it) => it.id));
  assert.deepEqual(nameless, []);
  for (const name of ['Question', 'Passages', 'Colours']) await page.getByLabel(name, { exact: true }).waitFor();
});

// ---------------------------------------------------------------- what can go wrong

pageTest('the server’s own sentence is shown', {}, async (page) => {
  await open(page);
  await writeJson(page, { query: '', documents: [] });
  const answered = page.waitForResponse((response) => response.url().endsWith('/rerank'));
  await page.click('#run');
  const response = await answered;
  assert.ok([400, 422].includes(response.status()), `status ${response.status()}`);
  const { message, detail } = await response.json();
  await page.locator('#notice').waitFor();
  assert.match(await page.locator('#notice-title').textContent(), /^The server did not accept the request \(4\d\d\)$/);
  const said = await page.locator('#notice-text').textContent();
  assert.ok(said.includes(message ?? (typeof detail === 'string' ? detail : detail[0].msg)), said);
  assert.equal(await page.locator('#notice').getAttribute('role'), 'alert');
  assert.ok(await page.locator('#ranking').isHidden(), 'no ranking of another request stays');

  await writeJson(page, FORMATS.texts);
  await answerAfter(page, () => page.click('#run'));
  assert.ok(await page.locator('#notice').isHidden());
});

const SIMULATED = [
  ['a list of faults', { status: 422, json: { detail: [{ loc: ['body', 'query'], msg: 'Field required' }] } }, '(422)', 'body.query: Field required', ''],
  ['a full queue', { status: 429, headers: { 'retry-after': '2' }, json: { message: 'the queue is full' } }, 'busy (429)', 'the queue is full', 'Try again in 2 seconds.'],
  ['an error object', { status: 500, json: { error: { message: 'the model failed' } } }, 'failed (500)', 'the model failed', ''],
  ['a proxy’s page', { status: 502, body: '<h1>Bad gateway</h1>' }, 'failed (502)', '', ''],
  ['an unknown answer', { status: 200, body: 'hello' }, 'not one that this page knows', '', ''],
];

for (const [name, response, title, said, advice] of SIMULATED) {
  pageTest(`errors: ${name}`, {}, async (page) => {
    await open(page);
    await page.route('**/v1/rerank', (route) => route.fulfill(response));
    await page.click('#run');
    await page.locator('#notice').waitFor();
    assert.ok((await page.locator('#notice-title').textContent()).includes(title));
    assert.equal(await page.locator('#notice-text').textContent(), said);
    assert.equal(await page.locator('#notice-advice').textContent(), advice);
  });
}

pageTest('errors: a server that is not there', {}, async (page) => {
  await open(page);
  await page.route('**/v1/rerank', (route) => route.abort('connectionrefused'));
  await page.click('#run');
  await page.locator('#notice', { hasText: 'The server cannot be reached' }).waitFor();
  await page.unroute('**/v1/rerank');
  await rankByKey(page);
  assert.ok(await page.locator('#notice').isHidden());
});

pageTest('while the model loads, the page tries again by itself', {}, async (page) => {
  let refusals = 0;
  await page.route('**/v1/rerank', async (route) => {
    refusals += 1;
    if (refusals > 2) return route.continue();
    return route.fulfill({ status: 503, headers: { 'retry-after': '1' }, json: { message: 'the model is loading' } });
  });
  await page.goto(`${SERVER}/ui`);
  await page.locator('#notice', { hasText: 'The server is not ready yet' }).waitFor();
  assert.equal(await page.locator('#notice-advice').textContent(), 'This page tries again every 1 second.');
  await page.locator('.result').first().waitFor();
  assert.equal(refusals, 3);
  assert.ok(await page.locator('#notice').isHidden());
});

pageTest('waiting for the model can be cancelled', {}, async (page) => {
  await open(page);
  await page.route('**/v1/rerank', (route) => route.fulfill({ status: 503, json: {} }));
  await page.click('#run');
  await page.locator('#notice').waitFor();
  await page.getByRole('button', { name: 'Cancel' }).click();
  await page.locator('#notice').waitFor({ state: 'hidden' });
  assert.equal(await page.getAttribute('#answer', 'aria-busy'), 'false');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'run', 'the focus is not lost');
});

pageTest('markup is shown as text', {}, async (page) => {
  await open(page);
  const hostile = ['<img src=x onerror="window.hit = 1">', '<script>window.hit = 1</script>', '</li></ol><b>bold</b>', '{{7*7}} &amp; &lt;'];
  await writeText(page, '<img src=x onerror="window.hit = 1">', hostile.join('\n'));
  await rankByKey(page);
  assert.deepEqual((await shownTexts(page)).sort(), [...hostile].sort());
  await page.route('**/v1/rerank', (route) => route.fulfill({ status: 422, json: { message: hostile[0] } }));
  await page.click('#run');
  await page.locator('#notice').waitFor();
  assert.equal(await page.locator('#notice-text').textContent(), hostile[0]);
  assert.equal(await page.locator('main img, main script, main b').count(), 0);
  assert.equal(await page.evaluate(() => window.hit), undefined);
});

const needsKey = KEYED_SERVER && KEY ? {} : { skip: 'RERANKER_KEYED_URL and RERANKER_KEY are not set' };

test('a server that asks for a key', { timeout: 60_000, ...needsKey }, async () => {
  const context = await browser.newContext({ locale: 'en-US' });
  try {
    const page = await context.newPage();
    await page.goto(`${KEYED_SERVER}/ui`);
    await page.locator('#notice', { hasText: 'The server asks for an API key' }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.id), 'key', 'the field is opened and focused');

    await page.keyboard.type('not-the-key');
    await page.keyboard.press('Control+Enter');
    await page.locator('#notice', { hasText: 'does not accept this API key' }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.id), 'key');

    await page.fill('#key', KEY);
    await rankByKey(page);
    assert.equal((await shownTexts(page))[0], EXAMPLE_BEST);
    await page.locator('#model', { hasText: 'demo' }).waitFor();

    const command = await page.locator('#curl').textContent();
    assert.ok(command.includes('$RERANKER_API_KEY'));
    assert.ok(!(await page.content()).includes(KEY), 'the key itself is nowhere on the page');
    const { stdout } = await run('bash', ['-c', command], { env: { ...process.env, RERANKER_API_KEY: KEY } });
    assert.equal(JSON.parse(stdout).results.length, 6);

    assert.equal(await page.evaluate(() => Object.values(localStorage).includes(document.getElementById('key').value)), false);
    await page.reload();
    await page.locator('.result').first().waitFor();
    assert.equal(await page.inputValue('#key'), KEY, 'kept for this tab');
  } finally {
    await context.close();
  }
});
