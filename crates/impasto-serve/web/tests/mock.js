/** A server that keeps to the interface of `impasto serve`, with answers that a test chooses. No dependency. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

const WEB = fileURLToPath(new URL('..', import.meta.url));
const TYPES = { html: 'text/html; charset=utf-8', js: 'text/javascript; charset=utf-8', css: 'text/css; charset=utf-8', svg: 'image/svg+xml',
  webmanifest: 'application/manifest+json' };

/** What every page is sent with; a real server must send the same. */
export const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
  + "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const layer = (number, bytes, bits, kld, state = 'loaded') => ({ layer: number, id: `smollm2:${number}`, bytes, bits_per_weight: bits, kld, state });

/** The models of a mock, to be changed by tests. */
export function layeredModel() {
  return {
    id: 'smollm2',
    impasto: {
      state: 'loaded', error: null, chat: true, context: 2048, file_bytes: 186_900_000, arrived_bytes: 186_900_000, base: null,
      layers: [layer(1, 38_000_000, 2.26, 0.41), layer(2, 59_900_000, 3.56, 0.064), layer(3, 84_000_000, 5, 0.0098),
        layer(4, 186_900_000, 11.11, 0, 'unloaded')],
      serving: { layer: 4, profile: 'as requested', promoted_blocks: 0 },
    },
  };
}

/**
 * @typedef {object} Mock
 * @property {string} url
 * @property {object[]} models what /v1/models lists
 * @property {string|((body: object) => string)} answer
 * @property {number} delay milliseconds between tokens
 * @property {((request, response, body: object) => boolean|void)|null} before takes a question over where it returns true
 * @property {string|null} key asked for where set
 * @property {object[]} asked bodies of the questions, each with its `path`
 * @property {number} cut questions whose client went away
 */

/** @returns {Promise<Mock>} */
export async function startMock(options = {}) {
  const mock = { models: [layeredModel()], answer: 'A calm answer.', delay: 1, before: null, key: null, asked: [], cut: 0, ...options };
  const server = createServer((request, response) => {
    handle(mock, request, response).catch((error) => {
      if (!response.headersSent) response.writeHead(500);
      response.end(String(error));
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  mock.url = `http://127.0.0.1:${server.address().port}`;
  mock.close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return mock;
}

async function handle(mock, request, response) {
  const path = new URL(request.url, mock.url).pathname;
  if (!path.startsWith('/v1/')) return sendPage(path, request, response);
  if (mock.key !== null && request.headers.authorization !== `Bearer ${mock.key}`) {
    return sendError(response, 401, 'This server needs an API key.', 'invalid_api_key');
  }
  if (path === '/v1/models') return sendJson(response, 200, { object: 'list', data: entries(mock.models) });
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = JSON.parse(Buffer.concat(chunks).toString());
  mock.asked.push({ path, ...body });
  if (mock.before?.(request, response, body)) return undefined;
  return stream(mock, path, body, response);
}

/** Models, each followed by its layers. */
function entries(models) {
  const entry = (id, impasto) => ({ id, object: 'model', created: 1_764_300_000, owned_by: 'impasto', impasto });
  return models.flatMap((model) => [
    entry(model.id, model.impasto),
    ...model.impasto.layers.map((own) => entry(own.id, { of: model.id, layer: own.layer })),
  ]);
}

async function sendPage(path, request, response) {
  const name = path === '/' ? 'index.html' : /^\/web\/([a-z-]+\.[a-z]+)$/.exec(path)?.[1];
  const bytes = name && TYPES[name.split('.').pop()] && (await readFile(WEB + name).catch(() => null));
  if (!bytes) return response.writeHead(404).end();
  const tag = `"${createHash('sha256').update(bytes).digest('hex').slice(0, 32)}"`;
  if (request.headers['if-none-match'] === tag) return response.writeHead(304, { ETag: tag }).end();
  response.writeHead(200, { 'Content-Type': TYPES[name.split('.').pop()], 'Content-Security-Policy': POLICY, 'X-Content-Type-Options': 'nosniff',
    'Cache-Control': 'no-cache', ETag: tag });
  return response.end(bytes);
}

export function sendJson(response, status, value, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
  response.end(JSON.stringify(value));
}

export function sendError(response, status, message, code, headers = {}) {
  sendJson(response, status, { error: { message, type: 'error', param: null, code } }, headers);
}

/** Sends deltas as a stream; for answers that are more than text. */
export async function sendDeltas(response, deltas, { delay = 1, path = '/v1/chat/completions', info = {}, prompt = 58 } = {}) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  const write = (value) => response.write(`data: ${typeof value === 'string' ? value : JSON.stringify(value)}\n\n`);
  const chat = path.endsWith('/chat/completions');
  const choice = (delta, reason) => ({ index: 0, finish_reason: reason, ...(chat ? { delta } : { text: delta.content ?? '' }) });
  for (const delta of deltas) {
    if (response.destroyed) return;
    write({ object: 'chat.completion.chunk', choices: [choice(delta, null)] });
    await new Promise((resolve) => setTimeout(resolve, delay));
  }
  write({
    choices: [choice({}, 'stop')],
    impasto: { layer: 4, bits_per_weight: 11.11, time_to_first_token: 0.12, prompt_tokens_per_second: 800, tokens_per_second: 150.2, cached_tokens: 40, ...info },
  });
  write({ choices: [], usage: { prompt_tokens: prompt, completion_tokens: deltas.length, total_tokens: prompt + deltas.length } });
  write('[DONE]');
  response.end();
}

async function stream(mock, path, body, response) {
  response.on('close', () => {
    if (!response.writableEnded) mock.cut += 1;
  });
  const text = typeof mock.answer === 'function' ? mock.answer(body) : mock.answer;
  const number = Number(body.model.split(':')[1] ?? 4);
  const used = mock.models[0].impasto.layers.find((own) => own.layer === number);
  const deltas = (text.match(/\s*\S+|\s+/g) ?? []).map((content) => ({ content }));
  await sendDeltas(response, deltas, { delay: mock.delay, path, info: { layer: number, bits_per_weight: used?.bits_per_weight } });
}
