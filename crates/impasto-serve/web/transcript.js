/** The messages of one conversation, and the scrolling that follows an answer unless the person scrolls away. */
import { byId, h } from './dom.js';
import { AnswerView, QuestionView } from './messages.js';

const NEAR = 48;
const EXAMPLES = [
  'Explain why the sky is blue, in three sentences.',
  'Write a Python function that reverses a linked list.',
  'Compare TCP and UDP in a table.',
  'Give me a recipe for a simple lentil soup.',
];
const BEGINNINGS = ['The capital of France is', 'Once upon a time, in a town by the sea,', 'def fibonacci(n):\n'];

export class Transcript {
  #views = [];
  #conversation = null;
  #actions;
  #scroller = byId('log');
  #frame = null;
  #follows = true;
  #plain = false;

  /** @param {import('./messages.js').Actions & {example: (text: string) => void}} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#scroller.addEventListener('scroll', () => {
      this.#follows = this.#distance() < NEAR;
      byId('to-end').hidden = this.#distance() < 4 * NEAR;
    }, { passive: true });
    byId('to-end').addEventListener('click', () => {
      this.toEnd();
      byId('question').focus();
    });
  }

  /**
   * Shows a conversation; messages that are shown already stay as they are.
   * @param {boolean} plain whether answers are text rather than markdown
   */
  show(conversation, plain) {
    if (conversation !== this.#conversation || plain !== this.#plain) this.#views = [];
    const isNew = conversation !== this.#conversation;
    this.#conversation = conversation;
    this.#plain = plain;
    this.#views = conversation.messages.map((message, index) => {
      const known = this.#views[index];
      if (known?.message === message) return known;
      return message.role === 'user' ? new QuestionView(message, this.#actions) : new AnswerView(message, this.#actions, plain);
    });
    const place = byId('messages');
    const elements = this.#views.map((view) => view.element);
    if (place.children.length !== elements.length || elements.some((element, index) => place.children[index] !== element)) {
      place.replaceChildren(...elements);
    }
    byId('empty').hidden = elements.length > 0;
    if (elements.length === 0) this.#showExamples();
    if (isNew) this.toEnd();
  }

  /** Shows the newest state of the last answer, once for all changes of a frame. */
  grow() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#views.at(-1)?.update();
      if (this.#follows) this.toEnd();
    });
  }

  editLast() {
    this.#views.findLast((view) => view instanceof QuestionView)?.edit();
  }

  toEnd() {
    this.#follows = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #distance() {
    return this.#scroller.scrollHeight - this.#scroller.scrollTop - this.#scroller.clientHeight;
  }

  #showExamples() {
    const texts = this.#plain ? BEGINNINGS : EXAMPLES;
    // They stay where they are while the list of models is read again: one may have the focus.
    if (byId('examples').dataset.of === texts[0]) return;
    byId('examples').dataset.of = texts[0];
    byId('examples').replaceChildren(...texts.map((text) =>
      h('li', {}, h('button', { type: 'button', class: 'example', onclick: () => this.#actions.example(text) }, text))));
  }
}
