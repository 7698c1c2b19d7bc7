/** Speaks to the server: OpenAI's interface, with the field `impasto` where the server adds to it. */
import { EventReader } from './sse.js';

const KEY = 'impasto.key';

/** A request that failed, in words for the person. `status` is 0 where no answer came. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = '', retryAfter = null } = {}) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.code = code;
    /** Seconds, or null where the server does not say. */
    this.retryAfter = retryAfter;
  }
}

/** The key is kept until the tab closes. */
export function setKey(key) {
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    memoryKey = key;
  }
}

let memoryKey = '';

function headers() {
  let key = memoryKey;
  try {
    key = sessionStorage.getItem(KEY) ?? memoryKey;
  } catch {
    // Storage is off. The key in memory does.
  }
  return key === '' ? {} : { Authorization: `Bearer ${key}` };
}

/** @returns {Promise<Model[]>} the models, without the entries that only name one layer of another */
export async function listModels(signal) {
  const response = await send('v1/models', { headers: headers(), signal, cache: 'no-store' });
  const body = await readJson(response);
  const data = Array.isArray(body?.data) ? body.data : [];
  return data.filter((entry) => typeof entry?.id === 'string' && !entry.impasto?.of).map(modelOf);
}

/**
 * @typedef {object} Layer
 * @property {number} layer from 1
 * @property {string} id the model to ask for
 * @property {number} bytes size of the file up to this layer
 * @property {number|null} bitsPerWeight
 * @property {number|null} kld
 * @property {string} state loaded, loading, unloaded or arriving
 *
 * @typedef {object} Model
 * @property {string} id
 * @property {string} state loaded, loading, unloaded or failed
 * @property {boolean|null} chat whether it has a chat template; null where the server does not know yet
 * @property {Layer[]} layers coarsest first
 */

/** A model as the page uses it, whatever the server leaves out. */
function modelOf(entry) {
  const own = entry.impasto ?? {};
  const number = (value) => (typeof value === 'number' && Number.isFinite(value) ? value : null);
  const layers = (Array.isArray(own.layers) ? own.layers : []).map((layer, index) => ({
    layer: number(layer.layer) ?? index + 1,
    id: String(layer.id ?? entry.id),
    bytes: number(layer.bytes) ?? 0,
    bitsPerWeight: number(layer.bits_per_weight) || null, // 0 where it is not known.
    kld: number(layer.kld),
    state: String(layer.state ?? 'loaded'),
  }));
  return {
    id: entry.id,
    state: own.state ?? 'loaded',
    error: own.error ?? null,
    chat: typeof own.chat === 'boolean' ? own.chat : null,
    context: number(own.context),
    fileBytes: number(own.file_bytes) ?? 0,
    arrivedBytes: number(own.arrived_bytes) ?? 0,
    base: own.base ?? null,
    layers,
    serving: own.serving ?? null,
  };
}

/**
 * Asks for an answer and gives its chunks as they arrive.
 * @param {string} path below the page's address
 * @param {object} body the request
 * @param {AbortSignal} signal
 */
export async function* streamChunks(path, body, signal) {
  const response = await send(path, {
    method: 'POST',
    headers: { ...headers(), 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
    cache: 'no-store',
  });
  const events = new EventReader();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      for (const data of events.push(value)) {
        if (data === '[DONE]') return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(chunk.error.message ?? 'The server failed.', { status: 500, code: chunk.error.code ?? '' });
        yield chunk;
      }
    }
  } catch (error) {
    throw wordsFor(error);
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiError('The connection ended before the answer was complete.', { code: 'cut' });
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, credentials: 'same-origin', redirect: 'error' });
  } catch (error) {
    throw wordsFor(error);
  }
  if (response.ok) return response;
  const error = (await readJson(response).catch(() => null))?.error;
  const seconds = Number.parseFloat(response.headers.get('Retry-After') ?? '');
  throw new ApiError(typeof error?.message === 'string' ? error.message : `The server answered ${response.status}.`, {
    status: response.status,
    code: error?.code ?? '',
    retryAfter: Number.isFinite(seconds) ? Math.max(0, seconds) : null,
  });
}

async function readJson(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The server sent something that is not JSON.', { status: response.status, code: 'not_json' });
  }
}

function wordsFor(error) {
  if (error instanceof ApiError || error.name === 'AbortError') return error;
  if (error instanceof SyntaxError || error instanceof RangeError) {
    return new ApiError('The server sent a stream that this page cannot read.', { code: 'bad_stream' });
  }
  return new ApiError('The server cannot be reached.', { code: 'network' });
}
