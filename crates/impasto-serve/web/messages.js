/** Shows one message, and keeps it up to date while it grows. */
import { copyText, h, iconButton } from './dom.js';
import { factsOf } from './format.js';
import { MarkdownView } from './render.js';

/**
 * @typedef {object} Actions
 * @property {(message: object, text: string) => void} edit ask again with another text
 * @property {(message: object) => void} retry
 * @property {(error: unknown) => void} failed
 * @property {() => void} copied
 */

export class QuestionView {
  element;
  message;
  #actions;
  #body;

  /** @param {Actions} actions */
  constructor(message, actions) {
    this.message = message;
    this.#actions = actions;
    this.#body = h('div', { class: 'question-text' }, message.content);
    this.element = h('article', { class: 'message question' },
      h('h2', { class: 'offscreen' }, 'Question'),
      this.#body,
      h('div', { class: 'tools' },
        iconButton('edit', 'Edit question', () => this.edit()),
        copyButton('Copy question', () => message.content, actions)));
  }

  update() {}

  /** Lets the person change the text in place. */
  edit() {
    if (this.element.querySelector('textarea')) return;
    const editor = h('textarea', { class: 'editor', value: this.message.content, 'aria-label': 'Edit question', rows: 3 });
    const close = () => {
      form.replaceWith(this.#body);
      this.element.classList.remove('editing');
      this.element.querySelector('.tools button').focus();
    };
    const send = () => {
      if (editor.value.trim() !== '') this.#actions.edit(this.message, editor.value);
    };
    editor.addEventListener('keydown', (event) => {
      if (event.isComposing) return;
      if (event.key === 'Escape') close();
      else if (event.key === 'Enter' && !event.shiftKey) send();
      else return;
      event.preventDefault();
    });
    const form = h('div', { class: 'edit-form' },
      editor,
      h('div', { class: 'edit-buttons' },
        h('button', { type: 'button', class: 'button', onclick: close }, 'Cancel'),
        h('button', { type: 'button', class: 'button primary', onclick: send }, 'Send')));
    this.#body.replaceWith(form);
    this.element.classList.add('editing');
    editor.focus();
    editor.setSelectionRange(editor.value.length, editor.value.length);
  }
}

export class AnswerView {
  element;
  message;
  #actions;
  #plain;
  #markdown;
  #parts;

  /**
   * @param {Actions} actions
   * @param {boolean} plain shows the text as it is: what a model without a chat template goes on with is no markdown
   */
  constructor(message, actions, plain) {
    this.message = message;
    this.#actions = actions;
    this.#plain = plain;
    const parts = {
      reasoning: h('details', { class: 'reasoning', hidden: true }, h('summary', {}, 'Reasoning'), h('div', { class: 'reasoning-text' })),
      text: h('div', { class: plain ? 'answer-text plain' : 'answer-text' }),
      toolCalls: h('div', { class: 'tool-calls' }),
      waiting: h('p', { class: 'waiting' }, h('span', { class: 'pulse', 'aria-hidden': 'true' }), h('span', { class: 'waiting-text' })),
      error: h('div', { class: 'error', hidden: true },
        h('p', {}),
        h('button', { type: 'button', class: 'button', onclick: () => actions.retry(message) }, 'Retry')),
      facts: h('p', { class: 'facts' }),
      tools: h('div', { class: 'tools' },
        copyButton('Copy answer', () => message.content, actions),
        iconButton('retry', 'Ask again', () => actions.retry(message))),
    };
    this.#parts = parts;
    this.#markdown = new MarkdownView(parts.text);
    this.element = h('article', { class: 'message answer' },
      h('h2', { class: 'offscreen' }, 'Answer'),
      parts.reasoning, parts.text, parts.toolCalls, parts.waiting, parts.error,
      h('div', { class: 'answer-foot' }, parts.tools, parts.facts));
    parts.text.addEventListener('click', (event) => this.#copyCode(event));
    this.update();
  }

  update() {
    const { message } = this;
    const parts = this.#parts;
    const growing = message.state === 'waiting' || message.state === 'streaming';
    this.element.setAttribute('aria-busy', String(growing));
    if (this.#plain) parts.text.textContent = message.content;
    else this.#markdown.update(message.content, growing || message.state === 'stopped');
    parts.reasoning.hidden = !message.reasoning;
    parts.reasoning.lastChild.textContent = message.reasoning ?? '';
    this.#showToolCalls(message.tools ?? []);
    parts.waiting.hidden = message.state !== 'waiting';
    parts.waiting.lastChild.textContent = message.waiting
      ? `${message.waiting.message} Trying again in ${message.waiting.seconds} s.` : 'Waiting for the first token\u2026';
    parts.error.hidden = message.state !== 'failed';
    if (message.state === 'failed') parts.error.firstChild.textContent = message.error?.message ?? 'The answer failed.';
    parts.tools.hidden = growing;
    parts.facts.textContent = factsOf(message).join(' \u00b7 ');
  }

  #showToolCalls(calls) {
    const place = this.#parts.toolCalls;
    while (place.children.length > calls.length) place.lastChild.remove();
    calls.forEach((call, index) => {
      const block = place.children[index]
        ?? place.appendChild(h('section', { class: 'tool-call' }, h('h3', {}), h('pre', { tabIndex: 0 }, h('code'))));
      block.firstChild.textContent = `Calls ${call.name}`;
      block.querySelector('code').textContent = readable(call.arguments);
    });
  }

  #copyCode(event) {
    const button = event.target.closest('.copy-code');
    if (!button) return;
    copy(button.closest('figure').querySelector('code').textContent, this.#actions);
  }
}

/** Arguments with line breaks, once they are complete. */
function readable(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function copyButton(label, text, actions) {
  return iconButton('copy', label, () => copy(text(), actions));
}

function copy(text, actions) {
  copyText(text).then(actions.copied, actions.failed);
}
