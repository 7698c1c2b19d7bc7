/** The page in a browser, against a mock of the server. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, test } from 'node:test';
import { REAL, ask, assertAccessible, assertNoSidewaysScroll, closeBrowser, ended, openPage, send } from './browser.js';
import { layeredModel, sendDeltas, sendError, startMock } from './mock.js';

after(closeBrowser);

/** A test with a mock of its own. Against a real server only server.test.js runs. */
function mockTest(name, options, run) {
  test(name, { skip: REAL !== undefined, timeout: 60_000 }, async (t) => {
    const mock = await startMock(options);
    t.after(mock.close);
    await run(t, mock);
  });
}

const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true };
const LONG = Array.from({ length: 400 }, (_, index) => `word${index}`).join(' ');
const answerText = (page) => page.locator('.answer:last-child .answer-text').innerText();
const until = (page, check, argument) => page.waitForFunction(check, argument);

function arrivingModel() {
  const model = layeredModel();
  model.impasto.arrived_bytes = 71_950_000;
  model.impasto.layers[2].state = model.impasto.layers[3].state = 'arriving';
  model.impasto.serving.layer = 2;
  return model;
}

mockTest('sends the conversation and shows the answer with its facts', { answer: 'It is **blue**.' }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await page.fill('#system', 'Be brief.');
  await ask(page, 'Why?');
  await ask(page, 'Really?');
  assert.equal(await answerText(page), 'It is blue.');
  assert.equal(await page.locator('.answer:last-child strong').innerText(), 'blue');
  assert.equal(await page.locator('.answer:last-child .facts').innerText(),
    'layer 4 \u00b7 11.11 bits per weight \u00b7 150 tokens/s \u00b7 first token after 120 ms \u00b7 3 tokens \u00b7 40 of 58 prompt tokens cached');
  assert.deepEqual(mock.asked[1], {
    path: '/v1/chat/completions', model: 'smollm2', stream: true, stream_options: { include_usage: true },
    messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Why?' }, { role: 'assistant', content: 'It is **blue**.' },
      { role: 'user', content: 'Really?' }],
  });
  assert.match(await page.locator('#speed').innerText(), /Speed\s+150 tokens\/s[\s\S]*First token\s+after 120 ms[\s\S]*Cached\s+40 of 58 prompt tokens/);
});

mockTest('shows text while it arrives, and Stop ends the request', { answer: LONG, delay: 20 }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await send(page, 'Go');
  await until(page, () => document.querySelector('.answer-text')?.innerText.includes('word5'));
  await until(page, () => /tokens\/s/.test(document.querySelector('.answer .facts').innerText));
  await page.click('#stop');
  await ended(page);
  assert.match(await page.locator('.answer .facts').innerText(), /stopped$/);
  assert.ok((await answerText(page)).length < LONG.length);
  for (let tries = 0; mock.cut === 0 && tries < 100; tries += 1) await page.waitForTimeout(50);
  assert.equal(mock.cut, 1);
  assert.equal(await page.evaluate(() => document.activeElement.id), 'question');
});

mockTest('a growing answer keeps the elements that are complete', { answer: 'First **one**.\n\n- a\n- b\n\n```js\nlet a = 1;\nlet b = 2;\n```\n', delay: 40 }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await send(page, 'Go');
  await until(page, () => document.querySelector('.answer-text pre'));
  await page.evaluate(() => {
    window.kept = ['p', 'p strong', 'ul', 'pre', 'pre code'].map((selector) => document.querySelector(`.answer-text ${selector}`));
  });
  await ended(page);
  assert.ok(await page.evaluate(() => window.kept.every((element) => element.isConnected)));
  assert.equal(await page.locator('pre code').innerText(), 'let a = 1;\nlet b = 2;');
});

mockTest('an edited question replaces what followed, and Undo brings it back', { answer: (body) => `Re: ${body.messages.at(-1).content}` }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await ask(page, 'one');
  await ask(page, 'two');
  await page.locator('.question').first().hover();
  await page.locator('[aria-label="Edit question"]').first().click();
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('.question-text').first().innerText(), 'one');
  await page.locator('[aria-label="Edit question"]').first().click();
  await page.locator('textarea.editor').fill('three');
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelector('.answer:last-child .answer-text').innerText === 'Re: three');
  assert.equal(await page.locator('.message').count(), 2);
  assert.deepEqual(mock.asked.at(-1).messages, [{ role: 'user', content: 'three' }]);
  await page.locator('.toast button').click();
  assert.deepEqual(await page.locator('.question-text').allInnerTexts(), ['one', 'two']);
  await page.reload();
  assert.deepEqual(await page.locator('.question-text').allInnerTexts(), ['one', 'two']);
});

mockTest('Undo while the new answer is being written ends it', { answer: (body) => (body.messages.at(-1).content === 'one' ? 'Short.' : LONG), delay: 20 }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await ask(page, 'one');
  await page.keyboard.press('Alt+ArrowUp');
  await page.locator('textarea.editor').fill('two');
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelector('.answer-text').innerText.includes('word3'));
  await page.locator('.toast button').click();
  await ended(page);
  assert.equal(await answerText(page), 'Short.');
  assert.equal(await page.locator('#send').isVisible(), true);
  for (let tries = 0; mock.cut === 0 && tries < 100; tries += 1) await page.waitForTimeout(50);
  assert.equal(mock.cut, 1);
});

mockTest('asks again for an answer', { answer: 'first' }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await ask(page, 'one');
  mock.answer = 'second';
  await page.locator('[aria-label="Ask again"]').click();
  await until(page, () => document.querySelector('.answer-text').innerText === 'second');
  await ended(page);
  assert.equal(await page.locator('.answer').count(), 1);
  assert.deepEqual(mock.asked[1].messages, [{ role: 'user', content: 'one' }]);
});

mockTest('copies answers and code', { answer: 'Do *this*:\n\n```sh\nls -l\npwd\n```' }, async (t, mock) => {
  const page = await openPage(t, mock.url, { permissions: ['clipboard-read', 'clipboard-write'] });
  await ask(page, 'How?');
  const copied = async (selector) => {
    await page.click(selector);
    await page.locator('.toast', { hasText: 'Copied.' }).waitFor();
    return page.evaluate(() => navigator.clipboard.readText());
  };
  assert.equal(await copied('.copy-code'), 'ls -l\npwd');
  assert.equal(await copied('[aria-label="Copy answer"]'), mock.answer);
});

mockTest('text of a model is text, whatever it holds', {
  answer: '<img src=x onerror="document.title=1"><script>document.title=1</script> [a](javascript:document.title=1) ![p](https://evil.example/p.png) '
    + '[ok](https://example.org/)\n\n```html"><script>document.title=1</script>\n<script>document.title=1</script>\n```\n\n<iframe src="https://evil.example">',
}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await ask(page, '<b onclick="x">bold</b>');
  assert.equal(await page.locator('.question-text').innerText(), '<b onclick="x">bold</b>');
  assert.equal(await page.locator('#messages :is(script, img, iframe, b)').count(), 0);
  const links = await page.locator('.answer-text a').evaluateAll((all) => all.map((a) => [a.href, a.rel, a.target]));
  const rel = 'noopener noreferrer nofollow';
  assert.deepEqual(links, [['https://evil.example/p.png', rel, '_blank'], ['https://example.org/', rel, '_blank'], ['https://evil.example/', rel, '_blank']]);
  assert.match(await page.title(), /Impasto$/);
});

mockTest('the slider picks the layer that is asked for', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  const slider = page.locator('#quality');
  assert.equal(await slider.inputValue(), '4');
  await slider.focus();
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowLeft');
  assert.equal(await slider.getAttribute('aria-valuetext'), 'Layer 2 of 4, 3.56 bits per weight, 59.9\u00a0MB, KL divergence 0.064');
  assert.match(await page.locator('#model-chip').innerText(), /smollm2 \u00b7 3.56 bits/);
  await ask(page, 'a');
  assert.equal(mock.asked[0].model, 'smollm2:2');
  assert.match(await page.locator('.answer .facts').innerText(), /^layer 2 \u00b7 3.56 bits per weight/);
  await page.locator('.layer-button').first().click();
  await ask(page, 'b');
  assert.equal(mock.asked[1].model, 'smollm2:1');
  await page.reload();
  assert.equal(await slider.inputValue(), '1');
  await page.check('#best');
  await ask(page, 'c');
  assert.equal(mock.asked[2].model, 'smollm2');
});

mockTest('layers that are arriving show how far, cannot be chosen, and become usable', { models: [arrivingModel()] }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  assert.equal(await page.locator('#arrival-text').innerText(), '72.0\u00a0MB of 186.9\u00a0MB has arrived');
  assert.deepEqual(await page.locator('.layer-button').evaluateAll((all) => all.map((button) => button.disabled)), [false, false, true, true]);
  const bars = await page.locator('.layer progress').evaluateAll((all) => all.map((bar) => [bar.hidden, Number(bar.value.toFixed(2))]));
  assert.deepEqual(bars, [[true, 1], [true, 1], [false, 0.5], [false, 0]]);
  await page.locator('#quality').focus();
  await page.keyboard.press('End');
  assert.equal(await page.locator('#quality').inputValue(), '2');
  await ask(page, 'a');
  assert.equal(mock.asked[0].model, 'smollm2:2');
  mock.models = [layeredModel()];
  await page.locator('#arrival').waitFor({ state: 'hidden' });
  assert.equal(await page.locator('.layer-button:disabled').count(), 0);
});

mockTest('says what the guardrails did, and what failed to load', {}, async (t, mock) => {
  mock.models[0].impasto.serving = { layer: 2, profile: 'promoted', promoted_blocks: 3 };
  const broken = layeredModel();
  broken.id = 'broken';
  Object.assign(broken.impasto, { state: 'failed', error: 'broken.impasto: unit 3 is damaged.', layers: [broken.impasto.layers[0]] });
  mock.models.push(broken);
  const page = await openPage(t, mock.url);
  assert.match(await page.locator('#model-state').innerText(), /3 blocks were given a finer layer/);
  await page.selectOption('#model', 'broken');
  assert.match(await page.locator('#model-state').innerText(), /could not be loaded. broken.impasto: unit 3 is damaged/);
  assert.equal(await page.locator('#quality-control').isVisible(), false);
});

mockTest('sampling settings are sent, and wrong ones are not', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await page.fill('#temperature', '0.7');
  await page.fill('#top_p', '7');
  await page.fill('#max_tokens', '12');
  await page.fill('#seed', '5');
  assert.equal(await page.locator('#top_p-rule').isVisible(), true);
  await ask(page, 'a');
  const { temperature, top_p, max_tokens, seed } = mock.asked[0];
  assert.deepEqual({ temperature, top_p, max_tokens, seed }, { temperature: 0.7, top_p: undefined, max_tokens: 12, seed: 5 });
  await page.reload();
  assert.equal(await page.locator('#temperature').inputValue(), '0.7');
  await page.click('#reset-sampling');
  await ask(page, 'b');
  assert.equal('temperature' in mock.asked[1], false);
});

mockTest('a model without a chat template goes on from the text as it is', { answer: ' Paris, *of course*.' }, async (t, mock) => {
  mock.models[0].impasto.chat = false;
  const page = await openPage(t, mock.url);
  assert.match(await page.locator('#composer-note').innerText(), /no chat template/);
  await ask(page, 'Something else');
  await ask(page, 'The capital of France is');
  assert.equal(mock.asked[1].path, '/v1/completions');
  assert.equal(mock.asked[1].prompt, 'The capital of France is');
  assert.equal(mock.asked[1].max_tokens, 256);
  assert.equal('messages' in mock.asked[1], false);
  assert.equal(await page.locator('.answer:last-child .answer-text').evaluate((element) => element.textContent), ' Paris, *of course*.');
});

mockTest('a model that turns out to have no chat template', { answer: ' Paris.' }, async (t, mock) => {
  mock.models[0].impasto.chat = null;
  mock.before = (request, response) => {
    mock.models[0].impasto.chat = false;
    mock.before = null;
    sendError(response, 400, 'The model has no chat template.', 'not_supported');
    return true;
  };
  const page = await openPage(t, mock.url, { expected: /400/ });
  await ask(page, 'The capital of France is');
  assert.deepEqual(mock.asked.map((body) => body.path), ['/v1/chat/completions', '/v1/completions']);
  assert.equal(await page.locator('.answer-text').evaluate((element) => element.textContent), ' Paris.');
  assert.equal(await page.locator('#composer-note').isVisible(), true);
});

mockTest('an error within the stream is shown in place, with Retry', {}, async (t, mock) => {
  mock.before = (request, response) => {
    mock.before = null;
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write('data: {"choices":[{"delta":{"content":"Half of"}}]}\n\n');
    response.end('data: {"error":{"message":"Out of memory.","type":"server_error","code":"oom"}}\n\n');
    return true;
  };
  const page = await openPage(t, mock.url);
  await ask(page, 'a');
  assert.equal(await answerText(page), 'Half of');
  assert.equal(await page.locator('.error p').innerText(), 'Out of memory.');
  await page.click('.error button');
  await until(page, () => document.querySelector('.answer-text').innerText === 'A calm answer.');
  assert.equal(await page.locator('.error').isVisible(), false);
});

mockTest('a connection that ends early is shown', {}, async (t, mock) => {
  mock.before = (request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write('data: {"choices":[{"delta":{"content":"Half"}}]}\n\n', () => setTimeout(() => response.destroy(), 50));
    return true;
  };
  const page = await openPage(t, mock.url, { expected: /ERR_INCOMPLETE_CHUNKED_ENCODING/ });
  await ask(page, 'a');
  assert.equal(await answerText(page), 'Half');
  assert.match(await page.locator('.error p').innerText(), /cannot be reached|ended before/);
});

mockTest('asks for a key, keeps it for the tab, and goes on', { key: 'secret' }, async (t, mock) => {
  const page = await openPage(t, mock.url, { expected: /401/, ready: false });
  await page.locator('#key-dialog').waitFor();
  await assertAccessible(page, 'key');
  await page.fill('#key', 'wrong');
  await page.keyboard.press('Enter');
  await page.locator('#key-dialog').waitFor();
  await page.fill('#key', 'secret');
  await page.click('#key-form [type=submit]');
  await until(page, () => document.querySelector('#model').options.length > 0);
  await page.reload();
  await until(page, () => document.querySelector('#model').options.length > 0);
  assert.equal(await page.locator('#key-dialog').isVisible(), false);
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes('secret')), false);
  mock.key = 'new';
  await send(page, 'a');
  await page.locator('#key-dialog').waitFor();
  await page.fill('#key', 'new');
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelector('.answer-text')?.innerText === 'A calm answer.');
});

mockTest('does not insist on a key', { key: 'secret' }, async (t, mock) => {
  const page = await openPage(t, mock.url, { expected: /401/, ready: false });
  await page.locator('#key-dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.evaluate(() => window.dispatchEvent(new Event('focus')));
  await page.locator('#offline', { hasText: 'needs an API key' }).waitFor();
  assert.equal(await page.locator('#key-dialog').isVisible(), false);
  await page.click('#offline-retry');
  await page.fill('#key', 'secret');
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelector('#model').options.length > 0);
  await page.locator('#offline').waitFor({ state: 'hidden' });
});

mockTest('waits for a busy server as long as it says', {}, async (t, mock) => {
  mock.before = (request, response) => {
    mock.before = null;
    sendError(response, 429, 'Too many questions.', 'queue_full', { 'Retry-After': '2' });
    return true;
  };
  const page = await openPage(t, mock.url, { expected: /429/ });
  await send(page, 'a');
  await until(page, () => document.querySelector('.waiting-text')?.innerText === 'Too many questions. Trying again in 2 s.');
  await ended(page);
  assert.equal(await answerText(page), 'A calm answer.');
  assert.equal(mock.asked.length, 2);
});

mockTest('the wait for a busy server can be stopped', {}, async (t, mock) => {
  mock.before = (request, response) => {
    sendError(response, 503, 'Loading.', 'loading', { 'Retry-After': '30' });
    return true;
  };
  const page = await openPage(t, mock.url, { expected: /503/ });
  await send(page, 'a');
  await until(page, () => /Trying again/.test(document.querySelector('.waiting-text')?.innerText));
  await page.keyboard.press('Escape');
  await ended(page);
  assert.equal(mock.asked.length, 1);
});

mockTest('other errors are shown in the words of the server', {}, async (t, mock) => {
  mock.before = (request, response) => {
    sendError(response, 400, 'The prompt has 3000 tokens; the context has 2048.', 'context_length_exceeded');
    return true;
  };
  const page = await openPage(t, mock.url, { expected: /400/ });
  await ask(page, 'a');
  assert.equal(await page.locator('.error p').innerText(), 'The prompt has 3000 tokens; the context has 2048.');
  mock.before = null;
  await ask(page, 'b');
  assert.deepEqual(mock.asked.at(-1).messages, [{ role: 'user', content: 'b' }], 'a question without an answer is not sent again');
});

mockTest('a server that goes away and comes back', {}, async (t, mock) => {
  const page = await openPage(t, mock.url, { expected: /ERR_/ });
  await page.context().setOffline(true);
  await ask(page, 'a');
  assert.equal(await page.locator('.error p').innerText(), 'The server cannot be reached.');
  await page.locator('#offline').waitFor();
  await page.context().setOffline(false);
  await page.click('.error button');
  await until(page, () => document.querySelector('.answer-text').innerText === 'A calm answer.');
  await page.locator('#offline').waitFor({ state: 'hidden' });
});

mockTest('shows reasoning folded and calls as blocks', {}, async (t, mock) => {
  mock.before = (request, response) => {
    const call = (index, name, text) => ({ tool_calls: [{ index, function: { ...(name && { name }), arguments: text } }] });
    sendDeltas(response, [{ reasoning_content: 'I should ' }, { reasoning_content: 'look.' }, { content: 'Looking.' },
      call(0, 'weather', '{"city":'), call(0, '', '"Bern"}'), call(1, 'time', '{}')]);
    return true;
  };
  const page = await openPage(t, mock.url);
  await ask(page, 'a');
  assert.equal(await page.locator('.reasoning-text').isVisible(), false);
  await page.click('summary');
  assert.equal(await page.locator('.reasoning-text').innerText(), 'I should look.');
  assert.deepEqual(await page.locator('.tool-call h3').allInnerTexts(), ['Calls weather', 'Calls time']);
  assert.equal(await page.locator('.tool-call code').first().innerText(), '{\n  "city": "Bern"\n}');
  await assertAccessible(page, 'calls');
});

mockTest('conversations: kept, renamed, exported, deleted and brought back', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await ask(page, 'First question');
  await page.click('#new-conversation');
  await ask(page, 'Second question');
  const titles = () => page.locator('.conversation-title').allInnerTexts();
  assert.deepEqual(await titles(), ['Second question', 'First question']);
  await page.locator('[aria-label^="Rename"]').first().click();
  await page.locator('.rename').fill('Renamed');
  await page.keyboard.press('Enter');
  assert.deepEqual(await titles(), ['Renamed', 'First question']);
  await page.reload();
  assert.deepEqual(await titles(), ['Renamed', 'First question']);
  assert.equal(await page.locator('.question-text').innerText(), 'Second question');
  const [file] = await Promise.all([page.waitForEvent('download'), page.locator('[aria-label^="Export"]').first().click()]);
  assert.equal(file.suggestedFilename(), 'Renamed.json');
  assert.equal(JSON.parse(await readFile(await file.path(), 'utf8')).messages[1].content, 'A calm answer.');
  const [all] = await Promise.all([page.waitForEvent('download'), page.click('#export-all')]);
  assert.equal(JSON.parse(await readFile(await all.path(), 'utf8')).length, 2);
  await page.locator('[aria-label^="Delete"]').first().click();
  assert.deepEqual(await titles(), ['First question']);
  assert.equal(await page.locator('.question-text').innerText(), 'First question');
  await page.locator('.toast button').click();
  assert.deepEqual(await titles(), ['Renamed', 'First question']);
  await page.reload();
  assert.deepEqual((await titles()).sort(), ['First question', 'Renamed']);
});

mockTest('an answer goes on while another conversation is shown', { answer: LONG, delay: 5 }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await send(page, 'Long one');
  await page.locator('.answer-text', { hasText: 'word3' }).waitFor();
  await page.click('#new-conversation');
  assert.equal(await page.locator('.conversation .pulse').count(), 1);
  assert.equal(await page.locator('#send').isVisible(), true);
  await page.locator('.conversation-title', { hasText: 'Long one' }).click();
  await ended(page);
  assert.equal(await answerText(page), LONG);
});

mockTest('a full storage is said, and nothing is lost from the page', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await page.evaluate(() => {
    Storage.prototype.setItem = () => {
      throw new DOMException('full', 'QuotaExceededError');
    };
  });
  await ask(page, 'a');
  assert.equal(await page.locator('#storage-full').isVisible(), true);
  assert.equal(await answerText(page), 'A calm answer.');
  await assertAccessible(page, 'full');
});

mockTest('two tabs share the list', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  const other = await page.context().newPage();
  await other.goto(`${mock.url}/`);
  await ask(page, 'From the first tab');
  await other.locator('.conversation-title', { hasText: 'From the first tab' }).waitFor();
});

mockTest('keyboard', { answer: LONG, delay: 10 }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
  await page.focus('#model');
  await page.locator('#theme').focus();
  await page.keyboard.press('/');
  assert.equal(await focused(), 'question');
  await page.keyboard.type('a/?');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('b');
  assert.equal(await page.inputValue('#question'), 'a/?\nb');
  await page.keyboard.press('Enter');
  await page.locator('.answer-text', { hasText: 'word3' }).waitFor();
  assert.equal(await page.locator('.question-text').innerText(), 'a/?\nb');
  await page.keyboard.press('Escape');
  await ended(page);
  await page.keyboard.press('Alt+ArrowUp');
  assert.equal(await focused(), 'editor');
  await page.keyboard.press('Escape');
  await page.keyboard.press('?');
  assert.equal(await page.locator('#help').isVisible(), true);
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('#help').isVisible(), false);
});

mockTest('Enter that ends the composition of a word does not send', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await page.fill('#question', '\u65e5\u672c');
  await page.locator('#question').dispatchEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true });
  assert.equal(await page.inputValue('#question'), '\u65e5\u672c');
  assert.equal(mock.asked.length, 0);
});

mockTest('everything can be reached with Tab, and the focus is visible', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await ask(page, 'a');
  const seen = new Set();
  for (let count = 0; count < 60; count += 1) {
    await page.keyboard.press('Tab');
    const [name, visible] = await page.evaluate(() => {
      const element = document.activeElement;
      if (element === document.body) return ['end', true];
      const style = getComputedStyle(element);
      const composer = element.closest('.composer');
      const ring = style.outlineStyle !== 'none' || (composer && getComputedStyle(composer).boxShadow !== 'none');
      return [element.id || element.getAttribute('aria-label') || element.className, ring];
    });
    assert.ok(visible, name);
    seen.add(name);
  }
  for (const name of ['new-conversation', 'theme', 'question', 'quality', 'best', 'temperature', 'Edit question', 'Ask again', 'Copy answer']) assert.ok(seen.has(name), name);
});

mockTest('reads whole sentences to screen readers', { answer: 'The first sentence. The second one. '.repeat(20), delay: 15 }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await page.evaluate(() => {
    window.said = [];
    const region = document.querySelector('#announcer');
    new MutationObserver(() => window.said.push(region.textContent)).observe(region, { childList: true });
  });
  await send(page, 'a');
  await ended(page);
  const said = await page.evaluate(() => window.said);
  assert.equal(said[0], 'Answering.');
  assert.match(said.at(-1), /End of the answer\.$/);
  assert.ok(said.length > 2 && said.length < 12, `${said.length} announcements`);
  for (const text of said) assert.match(text, /\.$/);
  assert.equal(said.slice(1).join(' ').replace('\nEnd of the answer.', '').replace(/\s+/g, ' ').trim(), mock.answer.trim());
});

mockTest('what has the focus keeps it while the list of models is read again', {}, async (t, mock) => {
  const page = await openPage(t, mock.url);
  const reads = () => page.evaluate(() => performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/v1/models')).length);
  for (const selector of ['.example', '.layer-button']) {
    await page.locator(selector).nth(1).focus();
    const before = await reads();
    await page.evaluate(() => window.dispatchEvent(new Event('focus')));
    while ((await reads()) === before) await page.waitForTimeout(20);
    await page.waitForTimeout(50);
    assert.equal(await page.evaluate((name) => document.activeElement === document.querySelectorAll(name)[1], selector), true, selector);
  }
});

mockTest('the theme follows the system until it is chosen', {}, async (t, mock) => {
  const page = await openPage(t, mock.url, { colorScheme: 'dark' });
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(await paper(), 'rgb(25, 23, 21)');
  await page.click('#theme');
  assert.equal(await paper(), 'rgb(250, 248, 245)');
  await page.reload();
  assert.equal(await paper(), 'rgb(250, 248, 245)');
  await page.click('#theme');
  await page.emulateMedia({ colorScheme: 'light' });
  assert.equal(await paper(), 'rgb(250, 248, 245)', 'the system is followed again');
});

mockTest('follows the answer, unless the person scrolls away', { answer: 'A line.\n\n'.repeat(150), delay: 10 }, async (t, mock) => {
  const page = await openPage(t, mock.url);
  await send(page, 'a');
  const distance = () => page.evaluate(() => {
    const log = document.querySelector('#log');
    return log.scrollHeight - log.scrollTop - log.clientHeight;
  });
  await until(page, () => document.querySelector('#log').scrollHeight > 1600);
  assert.ok((await distance()) < 60);
  await page.evaluate(() => document.querySelector('#log').scrollTo(0, 0));
  await page.locator('#to-end').waitFor();
  await page.waitForTimeout(300);
  assert.ok((await distance()) > 400);
  await page.click('#to-end');
  await ended(page);
  assert.ok((await distance()) < 60);
});

mockTest('no motion where none is wanted', { answer: LONG, delay: 20 }, async (t, mock) => {
  const page = await openPage(t, mock.url, { reducedMotion: 'reduce' });
  await send(page, 'a');
  await page.locator('.conversation .pulse').waitFor();
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  await page.click('#stop');
  await ended(page);
});

const RICH = '# Title\n\nText with `code` and [a link](https://example.org).\n\n1. a\n   - b\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote\n\n'
  + '```python\n# comment\ndef f(x):\n    return "text" + str(1)\n```\n\n'
  + `\`\`\`\n${'a long line '.repeat(40)}\n\`\`\`\n\n${'averylongword'.repeat(30)}\n\n| ${'wide cell | '.repeat(20)}\n|${'---|'.repeat(20)}\n`;

for (const colorScheme of ['light', 'dark']) {
  mockTest(`accessible: ${colorScheme}`, { answer: RICH, models: [arrivingModel()] }, async (t, mock) => {
    const page = await openPage(t, mock.url, { colorScheme });
    await assertAccessible(page, 'empty');
    await ask(page, 'a');
    await page.fill('#temperature', '99');
    await assertAccessible(page, 'answer');
    await page.locator('[aria-label^="Rename"]').first().click();
    await assertAccessible(page, 'rename');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Alt+ArrowUp');
    await assertAccessible(page, 'edit');
    await page.keyboard.press('Escape');
    await page.locator('[aria-label="Ask again"]').click();
    await ended(page);
    await assertAccessible(page, 'toast');
    await page.click('#open-help');
    await assertAccessible(page, 'help');
  });

  mockTest(`phone: ${colorScheme}`, { answer: RICH, models: [arrivingModel()] }, async (t, mock) => {
    const page = await openPage(t, mock.url, { colorScheme, ...PHONE });
    await assertNoSidewaysScroll(page);
    await assertAccessible(page, 'phone, empty');
    await ask(page, 'a'.repeat(200));
    await assertNoSidewaysScroll(page);
    await assertAccessible(page, 'phone');
    await page.tap('#open-sidebar');
    assert.equal(await page.evaluate(() => document.querySelector('#main').inert), true);
    await assertNoSidewaysScroll(page);
    await assertAccessible(page, 'phone, conversations');
    await page.keyboard.press('Escape');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'open-sidebar');
    await page.tap('#model-chip');
    await assertNoSidewaysScroll(page);
    await assertAccessible(page, 'phone, settings');
    await page.locator('#panel-backdrop').tap({ position: { x: 10, y: 300 } });
    assert.equal(await page.locator('#panel').isVisible(), false);
  });
}

mockTest('large text: no sideways scroll at 200%', { answer: RICH }, async (t, mock) => {
  const page = await openPage(t, mock.url, { viewport: { width: 640, height: 512 } });
  await page.evaluate(() => (document.documentElement.style.fontSize = '200%'));
  await ask(page, 'a');
  await assertNoSidewaysScroll(page);
});
