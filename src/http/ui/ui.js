// The playground: reads the form, asks the server, shows the ranking.
// Data is only ever written with textContent, so nothing that is typed or answered can become markup.

// ---------------------------------------------------------------- words

const SECONDS = { en: (n) => (n === 1 ? '1 second' : `${n} seconds`), fr: (n) => (n < 2 ? `${n} seconde` : `${n} secondes`) };

const WORDS = {
  en: {
    pageTitle: 'Reranker playground',
    title: 'Which passage answers the question best?',
    intro: 'The model reads each passage together with the question and gives it a score. The best passage comes first.',
    theme: 'Colours',
    themeAuto: 'Auto',
    themeLight: 'Light',
    themeDark: 'Dark',
    mode: 'Kind of input',
    modeText: 'Text',
    modeJson: 'JSON',
    query: 'Question',
    passages: 'Passages',
    passagesHint: 'One per line. If a passage has several lines, put an empty line between passages.',
    body: 'Request body',
    bodyHint: 'Sent exactly as it stands here. Passages may be:',
    options: 'Options',
    topN: 'How many to show',
    topNAll: 'all',
    maxChunks: 'Parts of a long passage',
    maxChunksHint: 'A passage that is too long for the model is cut off. From 2 on it is read in up to that many parts, and the best one counts.',
    rawScores: 'Raw scores',
    rawScoresHint: 'The model’s own numbers (logits), not brought to 0–1.',
    jsonOptions: 'The other options are fields of the JSON: top_n, raw_scores, max_chunks_per_doc.',
    key: 'API key',
    keyHint: 'Only if the server asks for one. Forgotten when this tab is closed.',
    run: 'Rank the passages',
    cancel: 'Cancel',
    enterKey: 'Enter',
    answer: 'Ranking',
    empty: 'The ranking appears here.',
    curlTitle: 'The same request in a terminal',
    copyCurl: 'Copy curl command',
    copyJson: 'Copy response as JSON',
    docs: 'API documentation',

    copied: 'Copied',
    notCopied: 'Could not copy: select the text and copy it by hand',
    passageCount: (n) => (n === 1 ? '1 passage' : `${n} passages`),
    onePerLine: 'one per line',
    emptyLines: 'separated by empty lines',
    score: 'Score',
    was: (place) => `was ${place}`,
    ordinal: (n) => n + { one: 'st', two: 'nd', few: 'rd', other: 'th' }[new Intl.PluralRules('en', { type: 'ordinal' }).select(n)],
    more: 'Show all of it',
    less: 'Show less',
    model: 'Model',
    onlyShown: (n) => `(${n} shown)`,
    tokens: 'Tokens',
    time: 'Time',
    inModel: (time) => `${time} of it in the model`,
    ranked: (n, time) => `${n} ranked${time ? ` in ${time}` : ''}.`,
    working: 'Ranking…',
    canceled: 'Cancelled.',
    info: (info) => `Model ${info.model_name} on ${info.device}, up to ${info.max_length} tokens at once · version ${info.version}`,
    demo: 'the small demo model, for trying out',

    queryMissing: 'Write a question.',
    passagesMissing: 'Write at least one passage.',
    wholeNumber: 'Give a whole number from 1, or nothing.',
    keyCharacters: 'This key has characters that cannot be sent: letters, digits and signs without accents or spaces only.',
    notAnObject: 'The JSON must be an object: {"query": "…", "documents": ["…"]}.',
    notJson: (line, column, fault) => `This is not valid JSON. Line ${line}, column ${column}: ${fault}`,
    fault: {
      value: 'a value should stand here.',
      key: 'a name in double quotes should stand here.',
      colon: 'a colon should stand here.',
      next: 'a comma or a closing bracket should stand here.',
      string: 'this text is not closed, or has a line break or a stray \\ in it.',
      end: 'something is missing at the end.',
    },

    problem: {
      network: 'The server cannot be reached',
      unreadable: 'The answer is not one that this page knows',
      401: 'The server asks for an API key',
      wrongKey: 'The server does not accept this API key',
      413: 'The request is too large',
      422: 'The server did not accept the request',
      429: 'The server is busy',
      503: 'The server is not ready yet',
      504: 'The server took too long',
      other: 'The server failed',
    },
    networkDetail: 'Check that it is running, then rank again.',
    keyDetail: 'Enter it under Options, then rank again.',
    retrying: (n) => `This page tries again every ${SECONDS.en(n)}.`,
    retryAfter: (n) => `Try again in ${SECONDS.en(n)}.`,

    example: {
      query: 'How can I reset a forgotten password?',
      passages: [
        'Passwords must have at least 12 characters and are changed once a year.',
        'The cafeteria is open from noon to 2 pm.',
        'Forgotten your password? Click “Reset password” on the sign-in page and follow the link in the e-mail.',
        'To reset the router, hold its button for ten seconds.',
        'Administrators can unlock an account that was blocked after five wrong passwords.',
        'Never share your password with anybody, not even with the help desk.',
      ],
    },
  },

  fr: {
    pageTitle: 'Reranker : essai en ligne',
    title: 'Quel passage répond le mieux à la question ?',
    intro: 'Le modèle lit chaque passage avec la question et lui donne un score. Le meilleur passage vient en premier.',
    theme: 'Couleurs',
    themeAuto: 'Auto',
    themeLight: 'Clair',
    themeDark: 'Sombre',
    mode: 'Type de saisie',
    modeText: 'Texte',
    modeJson: 'JSON',
    query: 'Question',
    passages: 'Passages',
    passagesHint: 'Un par ligne. Si un passage a plusieurs lignes, laissez une ligne vide entre les passages.',
    body: 'Corps de la requête',
    bodyHint: 'Envoyé exactement tel qu’il est ici. Les passages peuvent être :',
    options: 'Options',
    topN: 'Nombre de résultats',
    topNAll: 'tous',
    maxChunks: 'Parties d’un long passage',
    maxChunksHint: 'Un passage trop long pour le modèle est coupé. À partir de 2, il est lu en autant de parties au plus, et la meilleure compte.',
    rawScores: 'Scores bruts',
    rawScoresHint: 'Les nombres du modèle lui-même (logits), non ramenés entre 0 et 1.',
    jsonOptions: 'Les autres options sont des champs du JSON : top_n, raw_scores, max_chunks_per_doc.',
    key: 'Clé d’API',
    keyHint: 'Seulement si le serveur en demande une. Oubliée à la fermeture de l’onglet.',
    run: 'Classer les passages',
    cancel: 'Annuler',
    enterKey: 'Entrée',
    answer: 'Classement',
    empty: 'Le classement s’affiche ici.',
    curlTitle: 'La même requête dans un terminal',
    copyCurl: 'Copier la commande curl',
    copyJson: 'Copier la réponse en JSON',
    docs: 'Documentation de l’API',

    copied: 'Copié',
    notCopied: 'Copie impossible : sélectionnez le texte et copiez-le à la main',
    passageCount: (n) => (n < 2 ? `${n} passage` : `${n} passages`),
    onePerLine: 'un par ligne',
    emptyLines: 'séparés par des lignes vides',
    score: 'Score',
    was: (place) => `était ${place}`,
    ordinal: (n) => (n === 1 ? '1er' : `${n}e`),
    more: 'Tout afficher',
    less: 'Réduire',
    model: 'Modèle',
    onlyShown: (n) => (n < 2 ? `(${n} affiché)` : `(${n} affichés)`),
    tokens: 'Tokens',
    time: 'Durée',
    inModel: (time) => `dont ${time} dans le modèle`,
    ranked: (n, time) => `${n} : classement terminé${time ? ` en ${time}` : ''}.`,
    working: 'Classement en cours…',
    canceled: 'Annulé.',
    info: (info) => `Modèle ${info.model_name} sur ${info.device}, jusqu’à ${info.max_length} tokens à la fois · version ${info.version}`,
    demo: 'le petit modèle de démonstration, pour essayer',

    queryMissing: 'Écrivez une question.',
    passagesMissing: 'Écrivez au moins un passage.',
    wholeNumber: 'Donnez un nombre entier à partir de 1, ou rien.',
    keyCharacters: 'Cette clé a des caractères qui ne peuvent être envoyés : lettres, chiffres et signes sans accents ni espaces seulement.',
    notAnObject: 'Le JSON doit être un objet : {"query": "…", "documents": ["…"]}.',
    notJson: (line, column, fault) => `Ce JSON n’est pas valide. Ligne ${line}, colonne ${column} : ${fault}`,
    fault: {
      value: 'une valeur est attendue ici.',
      key: 'un nom entre guillemets doubles est attendu ici.',
      colon: 'un deux-points est attendu ici.',
      next: 'une virgule ou un crochet fermant est attendu ici.',
      string: 'ce texte n’est pas fermé, ou contient un retour à la ligne ou un \\ de trop.',
      end: 'il manque quelque chose à la fin.',
    },

    problem: {
      network: 'Le serveur est injoignable',
      unreadable: 'Cette page ne connaît pas ce genre de réponse',
      401: 'Le serveur demande une clé d’API',
      wrongKey: 'Le serveur refuse cette clé d’API',
      413: 'La requête est trop grande',
      422: 'Le serveur n’a pas accepté la requête',
      429: 'Le serveur est occupé',
      503: 'Le serveur n’est pas encore prêt',
      504: 'Le serveur a mis trop de temps',
      other: 'Le serveur a échoué',
    },
    networkDetail: 'Vérifiez qu’il fonctionne, puis relancez le classement.',
    keyDetail: 'Saisissez-la dans les options, puis relancez le classement.',
    retrying: (n) => `Cette page réessaie toutes les ${SECONDS.fr(n)}.`,
    retryAfter: (n) => `Réessayez dans ${SECONDS.fr(n)}.`,

    example: {
      query: 'Comment réinitialiser un mot de passe oublié ?',
      passages: [
        'Un mot de passe compte au moins 12 caractères et se change une fois par an.',
        'La cantine est ouverte de midi à 14 h.',
        'Mot de passe oublié ? Cliquez sur « Réinitialiser le mot de passe » sur la page de connexion et suivez le lien reçu par courriel.',
        'Pour réinitialiser la box, appuyez dix secondes sur son bouton.',
        'Un administrateur peut débloquer un compte bloqué après cinq mots de passe erronés.',
        'Ne donnez jamais votre mot de passe, pas même à l’assistance.',
      ],
    },
  },
};

// ---------------------------------------------------------------- state

const element = (id) => document.getElementById(id);

const field = {
  query: element('query'),
  passages: element('passages'),
  body: element('body'),
  topN: element('top-n'),
  maxChunks: element('max-chunks'),
  rawScores: element('raw-scores'),
  key: element('key'),
};

const state = {
  language: 'en',
  mode: 'text',
  /** What the form said when the JSON was last brought in line with it. */
  formOfBody: '',
  /** Aborts the request in progress; null when there is none. */
  running: null,
  ranking: null,
  problem: null,
  info: null,
};

const words = () => WORDS[state.language];

// ---------------------------------------------------------------- small helpers

/** Storage may be switched off in the browser; the page works without. */
function recall(storage, name) {
  try { return window[storage].getItem(`reranker.${name}`) ?? ''; } catch { return ''; }
}

function remember(storage, name, value) {
  try { window[storage].setItem(`reranker.${name}`, value); } catch { /* not remembered, then */ }
}

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value, format = { maximumFractionDigits: 0 }) {
  return new Intl.NumberFormat(state.language, format).format(value);
}

/** Short times deserve a decimal. */
function milliseconds(value) {
  return `${number(value, { maximumFractionDigits: value < 10 ? 1 : 0 })}\u00a0ms`;
}

function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); });
  });
}

// ---------------------------------------------------------------- language and theme

function setLanguage(language) {
  const wasExample = showsExample();
  state.language = language;
  document.documentElement.lang = language;
  document.title = words().pageTitle;
  for (const place of document.querySelectorAll('[data-text]')) place.textContent = words()[place.dataset.text];
  for (const place of document.querySelectorAll('[data-placeholder]')) place.placeholder = words()[place.dataset.placeholder];
  for (const button of document.querySelectorAll('[data-language]')) {
    button.setAttribute('aria-pressed', String(button.dataset.language === language));
  }
  for (const input of Object.values(field)) clearFault(input);
  showCounts();
  showInfo();
  showParts();
  showRows();
  if (wasExample) fillExample();
  return wasExample;
}

function preferredLanguage() {
  const chosen = recall('localStorage', 'language') || navigator.language.slice(0, 2).toLowerCase();
  return Object.hasOwn(WORDS, chosen) ? chosen : 'en';
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  element('theme').value = theme;
}

// ---------------------------------------------------------------- passages as text

/** Empty lines separate passages where there are any; otherwise every line is one. */
const hasEmptyLines = (text) => /\n[ \t]*\n/.test(text.trim());

function splitPassages(text) {
  const separator = hasEmptyLines(text) ? /\n(?:[ \t]*\n)+/ : '\n';
  return text.trim().split(separator).map((passage) => passage.trim()).filter(Boolean);
}

/** The reverse of splitPassages, up to white space. */
function joinPassages(passages) {
  const tidy = passages.map((passage) => passage.trim().replace(/\n\s*\n/g, '\n')).filter(Boolean);
  if (!tidy.some((passage) => passage.includes('\n'))) return tidy.join('\n');
  return tidy.length > 1 ? tidy.join('\n\n') : tidy[0].replaceAll('\n', ' ');
}

/** Whether the form still holds an example nobody has touched. */
function showsExample() {
  const { query, passages } = words().example;
  return state.mode === 'text' && field.query.value === query && field.passages.value === passages.join('\n');
}

function fillExample() {
  field.query.value = words().example.query;
  field.passages.value = words().example.passages.join('\n');
  showCounts();
}

function showCounts() {
  if (state.mode === 'json') {
    const body = parseBody();
    element('body-count').textContent = body ? words().passageCount(documentsOf(body).length) : '';
    return;
  }
  const passages = splitPassages(field.passages.value);
  const separator = hasEmptyLines(field.passages.value) ? words().emptyLines : words().onePerLine;
  showStripes();
  const count = words().passageCount(passages.length);
  element('passage-count').textContent = passages.length > 1 ? `${count}, ${separator}` : count;
}

/** Shades every other passage, as splitPassages counts them, so that wrapped lines do not look like several. */
function showStripes() {
  const apart = hasEmptyLines(field.passages.value);
  let passage = 0;
  let lastWasEmpty = true;
  const stripes = element('stripes');
  const lines = field.passages.value.split('\n');
  while (stripes.childElementCount > lines.length) stripes.lastChild.remove();
  while (stripes.childElementCount < lines.length) stripes.append(make('div'));
  [...stripes.children].forEach((stripe, at) => {
    const empty = lines[at].trim() === '';
    if (!empty && (lastWasEmpty || !apart)) passage += 1;
    lastWasEmpty = empty;
    stripe.classList.toggle('shaded', !empty && passage % 2 === 1);
    // Lines that stay are not touched: with thousands of passages, laying them all out anew makes typing slow.
    if (stripe.textContent !== lines[at]) stripe.textContent = lines[at];
  });
  scrollStripes();
}

function scrollStripes() {
  element('stripes').scrollTop = field.passages.scrollTop;
}

// ---------------------------------------------------------------- JSON

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The JSON field's object, or null. */
function parseBody() {
  try {
    const body = JSON.parse(field.body.value);
    return isObject(body) ? body : null;
  } catch {
    return null;
  }
}

function documentsOf(body) {
  const documents = body.documents ?? body.texts ?? [];
  return Array.isArray(documents) ? documents : [documents];
}

/** A document or query in any of the formats, as text. */
function textOf(passage) {
  if (typeof passage === 'string') return passage;
  if (passage === null || passage === undefined) return '';
  const text = passage.text ?? passage.content;
  if (Array.isArray(text)) return text.map(textOf).join('\n');
  return typeof text === 'string' ? text : JSON.stringify(passage);
}

const TOKEN = /"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[{}[\],:]/y;
const JSON_SPACE = /[ \t\n\r]*/y;

/**
 * Where a text stops being JSON, and what should stand there. Browsers differ in what they tell, and Chromium's
 * messages often have no place, so this walks through the tokens itself.
 */
function jsonFault(source) {
  const open = [];
  let wanted = 'value';
  let justOpened = false;
  let at = 0;
  for (;;) {
    JSON_SPACE.lastIndex = at;
    at += JSON_SPACE.exec(source)[0].length;
    if (at === source.length) return { at, wanted: 'end' };
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(source)?.[0];
    const kind = token?.[0];
    if (!token) {
      return { at, wanted: source[at] === '"' && (wanted === 'value' || wanted === 'key') ? 'string' : wanted };
    }
    if (kind === '}' || kind === ']') {
      if (open.pop() !== kind || !(wanted === 'next' || justOpened)) return { at, wanted };
      wanted = 'next';
    } else if (wanted === 'next') {
      if (kind !== ',' || open.length === 0) return { at, wanted };
      wanted = open.at(-1) === '}' ? 'key' : 'value';
    } else if (wanted === 'colon') {
      if (kind !== ':') return { at, wanted };
      wanted = 'value';
    } else if (wanted === 'key') {
      if (kind !== '"') return { at, wanted };
      wanted = 'colon';
    } else {
      if (kind === ',' || kind === ':') return { at, wanted };
      if (kind === '{') open.push('}');
      if (kind === '[') open.push(']');
      wanted = { '{': 'key', '[': 'value' }[kind] ?? 'next';
    }
    justOpened = kind === '{' || kind === '[';
    at += token.length;
  }
}

/** What is wrong with the JSON field, as a sentence and, where known, an offset; null if it is an object. */
function bodyFault() {
  if (parseBody()) return null;
  const source = field.body.value;
  try {
    JSON.parse(source);
    return { sentence: words().notAnObject };
  } catch {
    const { at, wanted } = jsonFault(source);
    const before = source.slice(0, at).split('\n');
    return { at, sentence: words().notJson(before.length, before.at(-1).length + 1, words().fault[wanted]) };
  }
}

// ---------------------------------------------------------------- modes

/** The request that the form stands for. */
function bodyOfForm() {
  const body = { query: field.query.value.trim(), documents: splitPassages(field.passages.value) };
  if (field.topN.value) body.top_n = Number(field.topN.value);
  if (field.rawScores.checked) body.raw_scores = true;
  if (field.maxChunks.value) body.max_chunks_per_doc = Number(field.maxChunks.value);
  return body;
}

function fillFormFrom(body) {
  field.query.value = textOf(body.query);
  field.passages.value = joinPassages(documentsOf(body).map(textOf));
  field.topN.value = body.top_n ?? body.top_k ?? '';
  field.rawScores.checked = body.raw_scores === true || body.use_activation === false;
  field.maxChunks.value = body.max_chunks_per_doc ?? '';
}

/** Takes the content along: JSON that says the same as the form stays as it was typed, with what the form has no place for. */
function setMode(mode) {
  if (mode === 'json' && JSON.stringify(bodyOfForm()) !== state.formOfBody) {
    field.body.value = JSON.stringify(bodyOfForm(), null, 2);
  }
  if (mode === 'text' && state.mode === 'json' && parseBody()) fillFormFrom(parseBody());
  state.formOfBody = JSON.stringify(bodyOfForm());
  state.mode = mode;
  showMode();
}

function showMode() {
  const json = state.mode === 'json';
  element('text-input').hidden = json;
  element('text-options').hidden = json;
  element('json-input').hidden = !json;
  element('json-options').hidden = !json;
  for (const button of document.querySelectorAll('[data-mode]')) {
    button.setAttribute('aria-pressed', String(button.dataset.mode === state.mode));
  }
  showCounts();
}

// ---------------------------------------------------------------- faults beside fields

function setFault(input, sentence) {
  const place = element(`${input.id}-error`);
  place.textContent = sentence;
  place.hidden = false;
  input.setAttribute('aria-invalid', 'true');
}

function clearFault(input) {
  const place = element(`${input.id}-error`);
  if (place) place.hidden = true;
  input.removeAttribute('aria-invalid');
}

/** Says what is wrong with each field. Returns the first wrong one, or undefined. */
function checkFields() {
  const textFields = [field.query, field.passages, field.topN, field.maxChunks];
  const fields = state.mode === 'json' ? [field.body, field.key] : [...textFields, field.key];
  return fields.filter((input) => !isRight(input))[0];
}

function isRight(input) {
  const fault = {
    body: () => bodyFault()?.sentence,
    query: () => !field.query.value.trim() && words().queryMissing,
    passages: () => splitPassages(field.passages.value).length === 0 && words().passagesMissing,
    key: () => /[^\x21-\x7e]/.test(field.key.value.trim()) && words().keyCharacters,
    // The browser's own check; it also knows what was typed but is not a number at all.
    'top-n': () => !input.validity.valid && words().wholeNumber,
    'max-chunks': () => !input.validity.valid && words().wholeNumber,
  }[input.id]();
  if (fault) setFault(input, fault);
  else clearFault(input);
  return !fault;
}

/** Puts the focus on a field that needs correcting, wherever it is. */
function visit(input) {
  if (element('options').contains(input)) element('options').open = true;
  input.focus();
  const at = input === field.body ? bodyFault()?.at : undefined;
  if (at !== undefined) input.setSelectionRange(at, at);
}

// ---------------------------------------------------------------- request

/** What will be sent, byte for byte, or null if a field is wrong. */
function readRequest() {
  const wrong = checkFields();
  if (wrong) {
    visit(wrong);
    return null;
  }
  const json = state.mode === 'json';
  const body = json ? parseBody() : bodyOfForm();
  return {
    // RAGFab's own format is only known at `rerank`, which knows the others too.
    url: new URL(json ? 'rerank' : 'v1/rerank', document.baseURI).href,
    text: json ? field.body.value : JSON.stringify(body, null, 2),
    passages: documentsOf(body).map(textOf),
    raw: body.raw_scores === true || body.use_activation === false,
    key: field.key.value.trim(),
  };
}

function headersFor(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function send(request, signal) {
  const headers = { 'Content-Type': 'application/json', ...headersFor(request.key) };
  return fetch(request.url, { method: 'POST', headers, body: request.text, signal });
}

/** Asks until the model has loaded. */
async function sendUntilReady(request, signal) {
  for (;;) {
    const response = await send(request, signal);
    const text = await response.text();
    if (response.status !== 503) return { response, text };
    const wait = Math.min(retryAfter(response) ?? 3, 5);
    showProblem({ title: 'problem.503', said: sentenceOf(text), advice: ['retrying', wait], waiting: true });
    await pause(wait, signal);
    signal.throwIfAborted();
  }
}

/** Ranks what is in the form; a run that is still going on is given up. */
async function rank({ first = false } = {}) {
  const request = readRequest();
  if (!request) return;
  state.running?.abort();
  const run = new AbortController();
  setRunning(run);
  showCurl(request);
  if (!first) bringIntoView(element('answer'));
  const answer = await sendUntilReady(request, run.signal).catch(() => null);
  if (run.signal.aborted) return;
  setRunning(null);
  showOutcome(answer, request);
}

/** No answer means that the network failed. */
function showOutcome(answer, request) {
  if (!answer) {
    showProblem({ title: 'problem.network', advice: ['networkDetail'] });
    return;
  }
  const { response, text } = answer;
  if (!response.ok) {
    refuse(response, text, request);
    return;
  }
  const ranking = readRanking(text, response, request);
  if (ranking) showRanking(ranking);
  else showProblem({ title: 'problem.unreadable' });
}

/** On a narrow screen the answer is below the form, out of sight. */
function bringIntoView(part) {
  if (part.getBoundingClientRect().top > window.innerHeight * 0.8) part.scrollIntoView({ block: 'start' });
}

function cancel() {
  state.running?.abort();
  setRunning(null);
  if (state.problem?.waiting) showProblem(null);
  element('status').textContent = words().canceled;
}

function setRunning(run) {
  state.running = run;
  element('answer').setAttribute('aria-busy', String(run !== null));
  element('progress').hidden = run === null;
  if (run === null && document.activeElement === element('cancel')) element('run').focus();
  element('cancel').hidden = run === null;
  if (run) element('status').textContent = words().working;
}

// ---------------------------------------------------------------- refusals

/** Seconds, or undefined. */
function retryAfter(response) {
  return Number(response.headers.get('retry-after')) || undefined;
}

/** The server's own sentence in an error body: `message`, `detail` (a sentence or a list) or `error`. */
function sentenceOf(text) {
  let body;
  try { body = JSON.parse(text); } catch { return ''; }
  if (typeof body?.message === 'string') return body.message;
  if (typeof body?.detail === 'string') return body.detail;
  if (Array.isArray(body?.detail)) return body.detail.map(faultSentence).join('; ');
  return typeof body?.error === 'string' ? body.error : body?.error?.message ?? '';
}

function faultSentence(fault) {
  const place = Array.isArray(fault?.loc) ? `${fault.loc.join('.')}: ` : '';
  return place + (fault?.msg ?? '');
}

function refuse(response, text, request) {
  const { status } = response;
  const said = sentenceOf(text);
  if (status === 401) {
    showProblem({ title: request.key ? 'problem.wrongKey' : 'problem.401', said, advice: ['keyDetail'] });
    visit(field.key);
    return;
  }
  const wait = retryAfter(response);
  const known = [413, 429, 504].includes(status) ? status : status < 500 ? 422 : 'other';
  showProblem({ title: `problem.${known}`, status, said, advice: wait && ['retryAfter', wait] });
}

// ---------------------------------------------------------------- rankings

/** One of the three formats, as what the page shows; null if it is none of them. */
function readRanking(text, response, request) {
  try {
    return rankingOf(JSON.parse(text), text, response, request);
  } catch {
    return null;
  }
}

function rankingOf(answer, text, response, request) {
  const rows = readRows(answer, request.passages);
  const header = (name) => (response.headers.has(name) ? Number(response.headers.get(name)) : undefined);
  const isRagfab = Array.isArray(answer.documents);
  return {
    text,
    rows,
    // RAGFab's format knows no raw scores; elsewhere they show by themselves where they were asked for in other words.
    raw: !isRagfab && (request.raw || rows.some((row) => row.score < 0 || row.score > 1)),
    total: request.passages.length,
    model: answer.model,
    tokens: answer.usage?.total_tokens ?? header('x-compute-tokens'),
    time: timing(response, 'total') ?? header('x-total-time'),
    modelTime: timing(response, 'compute') ?? header('x-inference-time'),
  };
}

/** Milliseconds of a stage. `Server-Timing` has decimals, which the headers of text-embeddings-inference have not. */
function timing(response, stage) {
  const said = response.headers.get('server-timing')?.match(`${stage};dur=([\\d.]+)`);
  return said ? Number(said[1]) : undefined;
}

function readRows(answer, passages) {
  const row = (index, score, text) => ({ index, score, text: passages[index] ?? text ?? '' });
  if (Array.isArray(answer)) return answer.map((result) => row(result.index, result.score, result.text));
  if (!Array.isArray(answer.documents)) {
    return answer.results.map((result) => row(result.index, result.relevance_score, result.document && textOf(result.document)));
  }
  const places = placesOf(answer.documents.map(textOf), passages);
  return answer.documents.map((document, at) => row(places[at], document.rerank_score, textOf(document)));
}

/** RAGFab's answer has no indices: each document is the first of the request with its text that is not taken yet. */
function placesOf(documents, passages) {
  const waiting = new Map();
  passages.forEach((passage, index) => {
    const text = passage.trim();
    if (!waiting.has(text)) waiting.set(text, []);
    waiting.get(text).push(index);
  });
  return documents.map((document) => waiting.get(document.trim())?.shift());
}

// ---------------------------------------------------------------- showing

function showRanking(ranking) {
  state.ranking = ranking;
  state.problem = null;
  showParts();
  showRows();
  element('status').textContent = words().ranked(words().passageCount(ranking.total), ranking.time && milliseconds(ranking.time));
  if (!state.info) loadInfo();
}

/** A problem takes the place of the ranking; waiting for the server does not. */
function showProblem(problem) {
  state.problem = problem;
  if (problem && !problem.waiting) {
    state.ranking = null;
    element('status').textContent = '';
  }
  showParts();
}

function showParts() {
  showNotice(state.problem);
  element('empty').hidden = state.ranking !== null || state.problem !== null;
  element('ranking').hidden = state.ranking === null;
  element('copy-json').hidden = state.ranking === null;
}

function showRows() {
  if (!state.ranking) return;
  const { rows, raw } = state.ranking;
  showSummary();
  element('results').classList.toggle('many', rows.length > 100);
  element('results').replaceChildren(...rows.map((row, at) => resultOf(row, at + 1, raw)));
}

function showSummary() {
  if (state.ranking) element('summary').replaceChildren(...summaryOf(state.ranking));
}

function showNotice(problem) {
  const notice = element('notice');
  notice.hidden = !problem;
  if (!problem) return;
  notice.classList.toggle('waiting', Boolean(problem.waiting));
  const title = problem.title.split('.').reduce((place, name) => place[name], words());
  write('notice-title', problem.status ? `${title} (${problem.status})` : title);
  write('notice-text', problem.said ?? '');
  write('notice-advice', adviceOf(problem));
}

/** What stays the same is not written again, so that it is not read out again. */
function write(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function adviceOf({ advice }) {
  if (!advice) return '';
  const [name, value] = advice;
  return value === undefined ? words()[name] : words()[name](value);
}

function summaryOf(ranking) {
  const model = ranking.model ?? state.info?.model_name;
  const shown = ranking.rows.length;
  const facts = [
    [words().model, model],
    [words().passages, number(ranking.total), shown < ranking.total && words().onlyShown(shown)],
    [words().tokens, ranking.tokens !== undefined && number(ranking.tokens)],
    [words().time, ranking.time !== undefined && milliseconds(ranking.time), ranking.modelTime !== undefined && words().inModel(milliseconds(ranking.modelTime))],
  ];
  return facts.filter(([, value]) => value).map(([name, value, more]) => {
    const fact = make('div');
    const told = make('dd', '', value);
    if (more) told.append(' ', make('small', '', more));
    fact.append(make('dt', '', name), told);
    return fact;
  });
}

function resultOf(row, place, raw) {
  const result = make('li', 'result');
  const passage = make('p', 'passage clamped', row.text);
  const measure = make('div', 'measure');
  const score = make('span', 'score');
  score.append(make('span', 'unseen', `${words().score} `), number(row.score, { minimumFractionDigits: 3, maximumFractionDigits: 3 }));
  measure.append(barOf(row.score, raw), score, movedOf(row.index, place));
  const content = make('div');
  content.append(measure, passage, moreButton(passage));
  result.append(make('span', 'rank', String(place)), content);
  return result;
}

/** Raw scores have no bounds, so their bars show the probability they stand for. */
function barOf(score, raw) {
  const share = raw ? 1 / (1 + Math.exp(-score)) : score;
  const track = make('div', 'track');
  const bar = make('div', 'bar');
  bar.style.width = `${(share * 100).toFixed(2)}%`;
  track.append(bar);
  return track;
}

function movedOf(index, place) {
  const moved = make('span', 'moved');
  if (index === undefined) return moved;
  const before = index + 1;
  const arrow = make('span', 'arrow', before > place ? '↑' : before < place ? '↓' : '=');
  arrow.setAttribute('aria-hidden', 'true');
  moved.append(arrow, words().was(words().ordinal(before)));
  return moved;
}

function moreButton(passage) {
  const button = make('button', 'more', words().more);
  button.type = 'button';
  button.hidden = true;
  button.setAttribute('aria-expanded', 'false');
  button.addEventListener('click', () => {
    const clamped = passage.classList.toggle('clamped');
    button.textContent = clamped ? words().more : words().less;
    button.setAttribute('aria-expanded', String(!clamped));
  });
  clampWatch.observe(passage);
  return button;
}

/** A button to see all of a passage stands only where some of it is cut off, which depends on the width. */
const clampWatch = new ResizeObserver((entries) => {
  const passages = entries.map((entry) => entry.target);
  for (const passage of passages.filter((it) => !it.isConnected)) clampWatch.unobserve(passage);
  // All is measured before anything is changed: taking turns would lay out the page anew for each passage.
  const clamped = passages.filter((passage) => passage.classList.contains('clamped'));
  const whole = clamped.map((passage) => passage.scrollHeight <= passage.clientHeight + 1);
  clamped.forEach((passage, at) => { passage.nextSibling.hidden = whole[at]; });
});

// ---------------------------------------------------------------- curl and copying

function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The request as it was sent. The key itself is never shown. */
function curlOf(request) {
  const lines = [`curl -X POST ${quote(request.url)}`, `-H ${quote('Content-Type: application/json')}`];
  if (request.key) lines.push('-H "Authorization: Bearer $RERANKER_API_KEY"');
  lines.push(`--data-raw ${quote(request.text)}`);
  return lines.join(' \\\n  ');
}

function showCurl(request) {
  element('share').hidden = false;
  element('curl').textContent = curlOf(request);
}

async function copy(text, button) {
  const copied = await toClipboard(text);
  const said = copied ? words().copied : words().notCopied;
  element('status').textContent = said;
  button.textContent = said;
  setTimeout(() => { button.textContent = words()[button.dataset.text]; }, 2000);
}

/** Browsers give pages on plain HTTP no clipboard, except on this machine; the old way still works there. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const holder = make('textarea', 'unseen');
  holder.value = text;
  document.body.append(holder);
  holder.select();
  const copied = document.execCommand('copy');
  holder.remove();
  focused?.focus();
  return copied;
}

// ---------------------------------------------------------------- the model

/** Missing information is no problem: it is asked for again after the next ranking. */
async function loadInfo() {
  try {
    const response = await fetch('info', { headers: headersFor(field.key.value.trim()) });
    if (!response.ok) return;
    state.info = await response.json();
    showInfo();
    showSummary();
  } catch { /* the request for a ranking says why */ }
}

function showInfo() {
  if (!state.info) return;
  const said = words().info(state.info);
  element('model').textContent = state.info.model_name === 'demo' ? `${said} · ${words().demo}` : said;
}

// ---------------------------------------------------------------- start

function chooseLanguage(language) {
  remember('localStorage', 'language', language);
  const exampleChanged = setLanguage(language);
  if (exampleChanged) rank();
}

function chooseTheme(theme) {
  remember('localStorage', 'theme', theme);
  setTheme(theme);
}

function rankOnShortcut(event) {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  rank();
}

function listen() {
  element('request').addEventListener('submit', (event) => { event.preventDefault(); rank(); });
  document.addEventListener('keydown', rankOnShortcut);
  element('cancel').addEventListener('click', cancel);
  element('theme').addEventListener('change', (event) => chooseTheme(event.target.value));
  for (const button of document.querySelectorAll('[data-language]')) {
    button.addEventListener('click', () => chooseLanguage(button.dataset.language));
  }
  for (const button of document.querySelectorAll('[data-mode]')) {
    button.addEventListener('click', () => setMode(button.dataset.mode));
  }
  for (const input of Object.values(field)) {
    input.addEventListener('input', () => { clearFault(input); showCounts(); });
  }
  field.passages.addEventListener('scroll', scrollStripes);
  field.key.addEventListener('input', () => remember('sessionStorage', 'key', field.key.value.trim()));
  element('copy-curl').addEventListener('click', (event) => copy(element('curl').textContent, event.currentTarget));
  element('copy-json').addEventListener('click', (event) => copy(state.ranking.text, event.currentTarget));
}

function start() {
  setTheme(recall('localStorage', 'theme') || 'auto');
  setLanguage(preferredLanguage());
  field.key.value = recall('sessionStorage', 'key');
  if (navigator.platform.startsWith('Mac')) element('modifier').textContent = '⌘';
  fillExample();
  listen();
  showMode();
  loadInfo();
  rank({ first: true });
}

start();
