// The npm library of OpenAI against a server: `node openai_node.mjs ADDRESS MODEL KEY`.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// The package is in the folder that IMPASTO_NODE_MODULES names, not beside this file.
const require = createRequire(pathToFileURL(`${process.env.IMPASTO_NODE_MODULES}/`));
const OpenAI = require('openai').default ?? require('openai');

const [address, model, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: 'Say hello.' }];
const options = { model, messages, max_tokens: 24, seed: 5, temperature: 0.7 };

const names = [];
for await (const entry of client.models.list()) names.push(entry.id);
assert.ok(names.includes(model), names.join());

const whole = await client.chat.completions.create(options);
let text = '';
let usage = null;
for await (const chunk of await client.chat.completions.create({ ...options, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

// The helper that puts pieces together, and one that is given up.
const helper = client.chat.completions.stream(options);
assert.equal(await helper.finalContent(), text);
const given = await client.chat.completions.create({ ...options, max_tokens: 500, stream: true });
for await (const _ of given) break;

const tool = {
  type: 'function',
  function: { name: 'weather', parameters: { type: 'object', properties: { city: { enum: ['Rome', 'Oslo'] } }, required: ['city'], additionalProperties: false } },
};
const called = await client.chat.completions.create({ ...options, max_tokens: 400, tools: [tool], tool_choice: { type: 'function', function: { name: 'weather' } } });
assert.ok(['Rome', 'Oslo'].includes(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city));

const format = { type: 'json_schema', json_schema: { name: 'flag', strict: true, schema: { type: 'object', properties: { yes: { type: 'boolean' } }, required: ['yes'], additionalProperties: false } } };
const flag = await client.chat.completions.create({ ...options, max_tokens: 200, response_format: format });
if (flag.choices[0].finish_reason === 'stop') assert.equal(typeof JSON.parse(flag.choices[0].message.content).yes, 'boolean');

const vectors = await client.embeddings.create({ model, input: ['a dog', 'a cat'] });
assert.equal(vectors.data.length, 2);

await assert.rejects(client.chat.completions.create({ ...options, model: 'none' }), OpenAI.NotFoundError);
await assert.rejects(new OpenAI({ baseURL: `${address}/v1`, apiKey: 'wrong', maxRetries: 0 }).models.list(), OpenAI.AuthenticationError);
console.log('done');
