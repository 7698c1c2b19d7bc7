/**
 * Conversations and settings in the browser's storage. Each conversation has a key of its own, so that two tabs do not overwrite
 * each other's, and a full storage loses no more than the newest change.
 *
 * @typedef {object} Message
 * @property {'user'|'assistant'} role
 * @property {string} content
 * @property {string} [reasoning]
 * @property {Array<{name: string, arguments: string}>} [tools]
 * @property {'waiting'|'streaming'|'done'|'stopped'|'failed'} [state] of an answer
 * @property {object} [error] `{message, status, code}`
 * @property {object} [info] how the answer was made
 *
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {boolean} named whether the person chose the title
 * @property {number} created milliseconds since 1970
 * @property {number} updated
 * @property {string} system
 * @property {Message[]} messages
 */

const PREFIX = 'impasto.conversation.';
const SETTINGS = 'impasto.settings';

export class Store {
  #storage;

  /** @param {Storage|null} storage null where the browser allows none; then nothing outlives the page */
  constructor(storage) {
    this.#storage = storage;
  }

  /** @returns {Conversation[]} newest first; what cannot be read is left alone and not shown */
  conversations() {
    const found = [];
    for (let index = 0; index < (this.#storage?.length ?? 0); index += 1) {
      const key = this.#storage.key(index);
      if (!key.startsWith(PREFIX)) continue;
      const conversation = checked(parse(this.#storage.getItem(key)), key.slice(PREFIX.length));
      if (conversation) found.push(conversation);
    }
    return found.sort((a, b) => b.updated - a.updated);
  }

  /** @returns {boolean} whether it is kept; false where the storage is full or off */
  save(conversation) {
    return this.#write(PREFIX + conversation.id, conversation);
  }

  remove(id) {
    this.#storage?.removeItem(PREFIX + id);
  }

  /** Whether a storage event of another tab is about conversations. */
  concerns(key) {
    return key === null || key.startsWith(PREFIX);
  }

  settings() {
    const value = parse(this.#storage?.getItem(SETTINGS) ?? null);
    return value !== null && typeof value === 'object' && !Array.isArray(value) ? value : {};
  }

  saveSettings(settings) {
    return this.#write(SETTINGS, settings);
  }

  #write(key, value) {
    try {
      if (this.#storage === null) return false;
      this.#storage.setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false; // Full.
    }
  }
}

/** The browser's storage, or null where it is off. */
export function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

/** @returns {Conversation} */
export function newConversation(system = '') {
  const now = Date.now();
  return { id: crypto.randomUUID?.() ?? randomId(), title: '', named: false, created: now, updated: now, system, messages: [] };
}

/** Pages that are not served from this machine or over TLS have no `randomUUID`. */
function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The title: the person's own, or the beginning of the first question. */
export function titleOf(conversation) {
  if (conversation.title !== '') return conversation.title;
  const line = conversation.messages[0]?.content.trim().split('\n', 1)[0] ?? '';
  if (line === '') return 'New conversation';
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}\u2026` : line;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** A conversation whose parts have the right types, or null. An answer that was being written counts as stopped. */
export function checked(value, id) {
  if (value === null || typeof value !== 'object' || !Array.isArray(value.messages)) return null;
  const messages = value.messages.filter(
    (message) => message && ['user', 'assistant'].includes(message.role) && typeof message.content === 'string');
  for (const message of messages) {
    if (message.state === 'streaming' || message.state === 'waiting') message.state = 'stopped';
    if (!Array.isArray(message.tools)) delete message.tools;
    if (typeof message.reasoning !== 'string') delete message.reasoning;
    if (typeof message.info !== 'object') delete message.info;
    if (typeof message.error !== 'object') delete message.error;
  }
  const text = (field) => (typeof field === 'string' ? field : '');
  const time = (field) => (Number.isFinite(field) ? field : 0);
  return {
    id,
    title: text(value.title),
    named: value.named === true,
    created: time(value.created),
    updated: time(value.updated),
    system: text(value.system),
    messages,
  };
}
