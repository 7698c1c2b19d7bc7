/** Asks for one answer and writes it into the conversation as it arrives. Knows no document. */
import { ApiError, streamChunks } from './api.js';

/** Answers that the server was too busy to give are asked for again, this often. */
const MAX_RETRIES = 3;
const MAX_WAIT_SECONDS = 60;

/** A model that only goes on from a text rarely ends, and the interface's default of 16 tokens is no text. */
const COMPLETION_TOKENS = 256;

/** Settings of the request that the person may leave to the server. */
const SAMPLING = ['temperature', 'top_p', 'max_tokens', 'seed'];

/**
 * @param {object} options
 * @param {import('./store.js').Conversation} options.conversation it ends with the answer
 * @param {import('./store.js').Message} options.answer to be written
 * @param {string} options.model the name to ask for
 * @param {boolean} options.chat whether the model has a chat template
 * @param {object} options.sampling
 * @param {AbortSignal} options.signal
 * @param {() => void} options.onchange
 */
export async function writeAnswer({ conversation, answer, model, chat, sampling, signal, onchange }) {
  const [path, body] = chat ? chatRequest(conversation, model) : completionRequest(conversation, model);
  for (const name of SAMPLING) if (sampling[name] !== undefined) body[name] = sampling[name];

  try {
    for (let attempt = 1; ; attempt += 1) {
      Object.assign(answer, { content: '', state: 'waiting', info: { model } });
      delete answer.error;
      delete answer.reasoning;
      delete answer.tools;
      onchange();
      try {
        await readAnswer(answer, streamChunks(path, body, signal), onchange);
        answer.state = 'done';
        return;
      } catch (error) {
        const busy = error instanceof ApiError && (error.status === 429 || error.status === 503);
        if (!busy || error.retryAfter === null || attempt > MAX_RETRIES) throw error;
        const seconds = Math.min(Math.max(1, Math.ceil(error.retryAfter)), MAX_WAIT_SECONDS);
        await countDown(answer, error.message, seconds, signal, onchange);
      }
    }
  } catch (error) {
    if (signal.aborted) {
      answer.state = 'stopped';
      delete answer.error;
    } else {
      answer.state = 'failed';
      answer.error = { message: error.message, status: error.status ?? 0, code: error.code ?? '' };
      if (!(error instanceof ApiError)) throw error;
    }
  } finally {
    delete answer.info.since;
    delete answer.info.pieces;
    delete answer.waiting;
    onchange();
  }
}

function chatRequest(conversation, model) {
  const messages = conversation.system.trim() === '' ? [] : [{ role: 'system', content: conversation.system }];
  const past = conversation.messages.slice(0, -1);
  past.forEach((message, index) => {
    // A question that got no answer is not part of what was said: templates expect roles in turns.
    const unanswered = message.role === 'user' && past[index + 1]?.content === '';
    if (!unanswered && message.content !== '') messages.push({ role: message.role, content: message.content });
  });
  return ['v1/chat/completions', { model, messages }];
}

/** Without a template the model goes on from the text, and knows nothing of what came before. */
function completionRequest(conversation, model) {
  return ['v1/completions', { model, prompt: conversation.messages.at(-2).content, max_tokens: COMPLETION_TOKENS }];
}

async function readAnswer(answer, chunks, onchange) {
  const info = answer.info;
  for await (const chunk of chunks) {
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? {};
    const text = delta.content ?? choice?.text ?? '';
    if (text || delta.reasoning_content || delta.tool_calls) {
      info.since ??= performance.now();
      info.pieces = (info.pieces ?? 0) + 1;
      answer.state = 'streaming';
    }
    if (text) answer.content += text;
    if (delta.reasoning_content) answer.reasoning = (answer.reasoning ?? '') + delta.reasoning_content;
    for (const call of delta.tool_calls ?? []) addToolCall(answer, call);
    if (choice?.finish_reason) info.finish = choice.finish_reason;
    if (chunk.impasto) Object.assign(info, chunk.impasto);
    if (chunk.usage) info.usage = chunk.usage;
    // The speed so far, until the server gives its own. A piece is about a token.
    const seconds = (performance.now() - (info.since ?? Infinity)) / 1000;
    if (seconds > 0.3 && info.tokens_per_second === undefined) info.speed = (info.pieces - 1) / seconds;
    onchange();
  }
}

/** Tool calls arrive in parts: first the name, then pieces of the arguments. */
function addToolCall(answer, call) {
  answer.tools ??= [];
  const index = Math.min(call.index ?? 0, answer.tools.length);
  answer.tools[index] ??= { name: '', arguments: '' };
  answer.tools[index].name += call.function?.name ?? '';
  answer.tools[index].arguments += call.function?.arguments ?? '';
}

/** Waits, and says in the answer for how long. */
async function countDown(answer, message, seconds, signal, onchange) {
  for (let left = seconds; left > 0; left -= 1) {
    answer.waiting = { message, seconds: left };
    onchange();
    await new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener('abort', stop);
        resolve();
      }, 1000);
      signal.addEventListener('abort', stop, { once: true });
      if (signal.aborted) stop();
    });
  }
  delete answer.waiting;
}
