/** Reads a growing answer to screen readers: whole sentences, with pauses, not token by token. */

const PAUSE = 1500;
/** A text that ends a sentence, or a line. */
const SENTENCES = /^[\s\S]*(?:[.!?:;](?=\s)|\n)/;

export class Announcer {
  #region;
  #said = 0;
  #text = '';
  #timer = null;

  /** @param {Element} region an element with aria-live */
  constructor(region) {
    this.#region = region;
  }

  /** A short message of its own. */
  say(text) {
    this.#region.textContent = text;
  }

  begin() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#said = 0;
    this.#text = '';
    this.say('Answering.');
  }

  /** @param {string} text all of the answer so far */
  grow(text) {
    this.#text = text;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      const [sentences] = SENTENCES.exec(this.#text.slice(this.#said)) ?? [''];
      this.#speak(sentences);
    }, PAUSE);
  }

  /** Says what is left, and how it ended. */
  end(text, how) {
    clearTimeout(this.#timer);
    this.#timer = null;
    const rest = text.slice(this.#said).trim();
    this.say(rest === '' ? how : `${rest}\n${how}`);
  }

  #speak(text) {
    this.#said += text.length;
    if (text.trim() !== '') this.say(text.trim());
  }
}
