/** Pictures of the page, to be looked at: `node shots.js FOLDER`. */
import { closeBrowser, ask, openPage, send, ended } from './browser.js';
import { layeredModel, sendDeltas, startMock } from './mock.js';

const folder = process.argv[2] ?? '.';
const ANSWER = `## A reversed list

A linked list is reversed in **one pass**: each node is made to point at the one *before* it.

1. Keep the node before, \`previous\`.
2. Walk along the list:
   - remember the next node,
   - turn the pointer,
   - step on.
3. The last node is the new head.

\`\`\`python
def reverse(head):
    """Reverses a linked list in place."""
    previous = None
    while head is not None:  # one step a node
        head.next, previous, head = previous, head, head.next
    return previous
\`\`\`

| Method | Time | Memory |
|:-------|-----:|:------:|
| In place | 12 ms | O(1) |
| By recursion | 31 ms | O(n) |

> Recursion fails on long lists, see [the documentation](https://docs.python.org/3/).`;

const cleanups = [];
const t = { after: (run) => cleanups.push(run) };
const mock = await startMock({ answer: ANSWER });
const shot = (page, name) => page.screenshot({ path: `${folder}/${name}.png` });

for (const colorScheme of ['light', 'dark']) {
  const page = await openPage(t, mock.url, { colorScheme });
  await shot(page, `empty-${colorScheme}`);
  await ask(page, 'How do I reverse a linked list in Python?');
  await shot(page, `desktop-${colorScheme}`);
  await page.click('#open-help');
  await shot(page, `help-${colorScheme}`);
}
for (const colorScheme of ['light', 'dark']) {
  const page = await openPage(t, mock.url, { colorScheme, viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
  await shot(page, `phone-empty-${colorScheme}`);
  await ask(page, 'How do I reverse a linked list in Python?');
  await shot(page, `phone-${colorScheme}`);
  await page.tap('#open-sidebar');
  await page.waitForTimeout(250);
  await shot(page, `phone-drawer-${colorScheme}`);
  await page.tap('#close-sidebar');
  await page.tap('#open-panel');
  await page.waitForTimeout(250);
  await shot(page, `phone-settings-${colorScheme}`);
}
{
  const model = layeredModel();
  model.impasto.arrived_bytes = 71_000_000;
  model.impasto.layers[2].state = model.impasto.layers[3].state = 'arriving';
  model.impasto.serving.layer = 2;
  mock.models = [model];
  mock.delay = 60;
  const page = await openPage(t, mock.url);
  await send(page, 'How do I reverse a linked list in Python?');
  await page.waitForTimeout(2500);
  await shot(page, 'arriving');
  await page.click('#stop');
  await ended(page);
  await page.hover('.question');
  await page.click('[aria-label="Edit question"]');
  await shot(page, 'edit');
  mock.delay = 1;
  mock.models = [layeredModel()];
}
{
  mock.before = (request, response, body) => {
    if (body.messages.length === 1) {
      sendDeltas(response, [{ reasoning_content: 'The person asks for the weather.' }, { content: 'Let me look.' },
        { tool_calls: [{ index: 0, function: { name: 'get_weather', arguments: '{"city":"Bern","days":3}' } }] }]);
    } else {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.write('data: {"choices":[{"delta":{"content":"It will be"}}]}\n\ndata: {"error":{"message":"Out of memory for keys and values.","type":"server_error","code":"x"}}\n\n');
      response.end();
    }
    return true;
  };
  const page = await openPage(t, mock.url);
  await ask(page, 'What will the weather be in Bern?');
  await page.click('summary');
  await ask(page, 'And in Basel?');
  await page.fill('#temperature', '9');
  await page.hover('.conversation');
  await shot(page, 'error');
}
for (const run of cleanups) await run();
await closeBrowser();
await mock.close();
