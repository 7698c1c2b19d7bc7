/** The parts of the page that need no document. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { factsOf, significant, size } from '../format.js';
import { EventReader } from '../sse.js';
import { Store, checked, newConversation, titleOf } from '../store.js';

test('events: the same however the text is cut', () => {
  const text = ': comment\r\n\r\ndata: {"a":1}\r\n\r\nevent: x\ndata:one\ndata: two\n\nid: 3\n\ndata: \u00fc\n\n';
  const expected = ['{"a":1}', 'one\ntwo', '\u00fc'];
  for (let length = 1; length <= text.length; length += 1) {
    const reader = new EventReader();
    const events = [];
    for (let at = 0; at < text.length; at += length) events.push(...reader.push(text.slice(at, at + length)));
    assert.deepEqual(events, expected, `pieces of ${length}`);
  }
});

test('events: one that does not end is refused', () => {
  const reader = new EventReader();
  const piece = 'x'.repeat(1024 * 1024);
  assert.throws(() => {
    for (let index = 0; index < 20; index += 1) reader.push(piece);
  }, RangeError);
});

/** The browser's storage, with a limit. */
class FakeStorage {
  #map = new Map();
  constructor(limit = Infinity) {
    this.limit = limit;
  }
  get length() {
    return this.#map.size;
  }
  key(index) {
    return [...this.#map.keys()][index] ?? null;
  }
  getItem(key) {
    return this.#map.get(key) ?? null;
  }
  setItem(key, value) {
    if (value.length > this.limit) throw new DOMException('full', 'QuotaExceededError');
    this.#map.set(key, value);
  }
  removeItem(key) {
    this.#map.delete(key);
  }
}

test('store: conversations come back, newest first', () => {
  const store = new Store(new FakeStorage());
  const older = { ...newConversation('be brief'), updated: 1, messages: [{ role: 'user', content: 'a' }] };
  const newer = { ...newConversation(), updated: 2 };
  assert.ok(store.save(older) && store.save(newer));
  assert.deepEqual(store.conversations(), [newer, older]);
  store.remove(newer.id);
  assert.deepEqual(store.conversations(), [older]);
});

test('store: a full storage says so and keeps what was there', () => {
  const store = new Store(new FakeStorage(400));
  const conversation = newConversation();
  assert.equal(store.save(conversation), true);
  const grown = { ...conversation, messages: [{ role: 'user', content: 'x'.repeat(500) }] };
  assert.equal(store.save(grown), false);
  assert.deepEqual(store.conversations(), [conversation]);
});

test('store: without storage nothing fails', () => {
  const store = new Store(null);
  assert.equal(store.save(newConversation()), false);
  assert.deepEqual(store.conversations(), []);
  assert.deepEqual(store.settings(), {});
});

test('store: what is not a conversation is not shown', () => {
  const storage = new FakeStorage();
  for (const [id, text] of [['a', 'not json'], ['b', '3'], ['c', '{"messages":3}'], ['d', 'null'], ['e', '[]']]) storage.setItem(`impasto.conversation.${id}`, text);
  storage.setItem('impasto.settings', '[1]');
  storage.setItem('other', '{}');
  const store = new Store(storage);
  assert.deepEqual(store.conversations(), []);
  assert.deepEqual(store.settings(), {});
  const mended = checked({ messages: [null, { role: 'system', content: 'x' }, { role: 'user', content: 1 }, { role: 'assistant', content: 'y', state: 'streaming', tools: 3 }] }, 'f');
  assert.deepEqual(mended.messages, [{ role: 'assistant', content: 'y', state: 'stopped' }]);
});

test('store: titles', () => {
  const conversation = newConversation();
  assert.equal(titleOf(conversation), 'New conversation');
  conversation.messages.push({ role: 'user', content: `  First line ${'x'.repeat(80)}\nsecond` });
  assert.equal(titleOf(conversation).length, 60);
  conversation.title = 'Mine';
  assert.equal(titleOf(conversation), 'Mine');
});

test('format: numbers', () => {
  assert.deepEqual([0, 999, 1000, 38_000_000, 999_960_000].map(size), ['0\u00a0B', '999\u00a0B', '1.0\u00a0kB', '38.0\u00a0MB', '1.0\u00a0GB']);
  assert.deepEqual([0, 0.0098, 0.064, 2.26, 11.11, 150.2].map(significant), ['0', '0.0098', '0.064', '2.26', '11.1', '150']);
});

test('format: facts of an answer', () => {
  const info = { layer: 2, bits_per_weight: 3.5, tokens_per_second: 150.2, time_to_first_token: 0.12, queue_seconds: 0.1, cached_tokens: 40, finish: 'length', usage: { prompt_tokens: 58, completion_tokens: 20 } };
  assert.deepEqual(factsOf({ info, state: 'done' }), ['layer 2', '3.5 bits per weight', '150 tokens/s', 'first token after 120 ms', '100 ms of it in the queue', '20 tokens', '40 of 58 prompt tokens cached', 'cut at the token limit']);
  assert.deepEqual(factsOf({}), []);
});
