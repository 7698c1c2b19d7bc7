/**
 * What holds for every server: the mock, or with `IMPASTO_SERVER=http://127.0.0.1:PORT` a real one with one model. Answers are only
 * known to be some text, since the model may be any.
 */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { REAL, ask, assertAccessible, assertNoSidewaysScroll, closeBrowser, ended, openPage, send } from './browser.js';
import { POLICY, startMock } from './mock.js';

const mock = REAL ? null : await startMock({ answer: 'Some words of an answer. '.repeat(30), delay: 5 });
const url = REAL ?? mock.url;

after(async () => {
  await closeBrowser();
  await mock?.close();
});

const serverTest = (name, run) => test(`server: ${name}`, { timeout: 120_000 }, run);

/** Opens the page with short answers, and keeps the bodies of the questions. */
async function open(t, options) {
  // A model that is not loaded yet may turn out to have no chat template.
  const page = await openPage(t, url, { expected: REAL ? /400/ : null, ...options });
  const asked = [];
  page.on('request', (request) => {
    if (request.method() === 'POST') asked.push({ path: new URL(request.url()).pathname, ...request.postDataJSON() });
  });
  return { page, asked };
}

async function limit(page, tokens) {
  await page.evaluate((value) => {
    const field = document.querySelector('#max_tokens');
    field.value = value;
    field.dispatchEvent(new Event('input'));
  }, String(tokens));
}

/** What a question asked for, in either interface. */
const question = (body) => body.prompt ?? body.messages.at(-1).content;

serverTest('sends the policy, and no page but its own', async () => {
  const response = await fetch(`${url}/`);
  assert.equal(response.headers.get('content-security-policy'), POLICY);
  assert.equal(response.headers.get('x-content-type-options'), 'nosniff');
  for (const path of ['/web/', '/web/none.js', '/web/tests/mock.js', '/web/../Cargo.toml', '/web/%2e%2e/Cargo.toml', '/web/README.md']) {
    assert.equal((await fetch(url + path)).status, 404, path);
  }
});

serverTest('everything that the page names is there, with its type', async () => {
  const text = await (await fetch(`${url}/`)).text();
  const paths = new Set([...text.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1]));
  for (const path of paths) {
    const response = await fetch(`${url}/${path}`);
    assert.equal(response.status, 200, path);
    const source = await response.text();
    if (!path.endsWith('.js')) continue;
    assert.match(response.headers.get('content-type'), /^text\/javascript/);
    for (const match of source.matchAll(/ from '\.\/([^']+)'/g)) paths.add(`web/${match[1]}`);
  }
  assert.ok(paths.size > 15);
});

serverTest('an unchanged file is not sent again', async () => {
  const first = await fetch(`${url}/web/app.js`);
  const tag = first.headers.get('etag');
  assert.match(tag, /^"[^"]+"$/);
  assert.equal((await fetch(`${url}/web/app.js`, { headers: { 'If-None-Match': tag } })).status, 304);
});

serverTest('answers a question and says how', async (t) => {
  const { page, asked } = await open(t);
  await limit(page, 16);
  await ask(page, 'The capital of France is');
  assert.equal(await page.locator('.error').isVisible(), false);
  assert.equal(question(asked[0]), 'The capital of France is');
  assert.equal(asked[0].max_tokens, 16);
  assert.match(await page.locator('.answer .facts').innerText(), /layer \d+ .*tokens\/s .*first token after .*\d+ tokens/);
});

serverTest('stops, edits, brings back and asks again', async (t) => {
  const { page, asked } = await open(t);
  await limit(page, 400);
  await send(page, 'Once upon a time');
  await page.waitForFunction(() => document.querySelector('.answer-text')?.textContent.length > 0);
  await page.keyboard.press('Escape');
  await ended(page);
  await limit(page, 8);
  await page.keyboard.press('Alt+ArrowUp');
  await page.locator('textarea.editor').fill('In a town by the sea');
  await page.keyboard.press('Enter');
  await ended(page);
  assert.equal(question(asked[1]), 'In a town by the sea');
  await page.locator('.toast button').click();
  assert.equal(await page.locator('.question-text').innerText(), 'Once upon a time');
  await page.locator('[aria-label="Ask again"]').click();
  await ended(page);
  assert.equal(question(asked[2]), 'Once upon a time');
  assert.equal(await page.locator('.error').isVisible(), false);
});

serverTest('the slider picks the layer that answers', async (t) => {
  const { page, asked } = await open(t);
  const layers = await page.locator('.layer-button:enabled').count();
  if (layers < 2) return t.skip('the file has one layer');
  await limit(page, 8);
  await page.locator('.layer-button').first().click();
  await ask(page, 'Hello');
  assert.match(asked[0].model, /:1$/);
  assert.match(await page.locator('.answer .facts').innerText(), /^layer 1 /);
  return undefined;
});

serverTest('the same seed gives the same answer', async (t) => {
  const { page } = await open(t);
  await limit(page, 12);
  await page.fill('#seed', '7');
  await page.fill('#temperature', '1');
  await ask(page, 'Once upon a time');
  const first = await page.locator('.answer-text').innerText();
  await page.locator('[aria-label="Ask again"]').click();
  await ended(page);
  assert.equal(await page.locator('.answer-text').innerText(), first);
});

for (const [name, options] of Object.entries({
  light: {}, dark: { colorScheme: 'dark' }, phone: { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true },
})) {
  serverTest(`accessible and no wider than the window: ${name}`, async (t) => {
    const { page } = await open(t, options);
    await limit(page, 16);
    await ask(page, 'Hello');
    await assertNoSidewaysScroll(page);
    await assertAccessible(page, name);
  });
}
