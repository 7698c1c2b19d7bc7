/** Reads a growing answer to screen readers: whole sentences, with pauses, not token by token. */

const PAUSE = 1500;
/** A text that ends a sentence, or a line. */
const SENTENCES = /^[\s\S]*(?:[.!?:;](?=\s)|\n)/;

export class Announcer {
  #region;
  #said = 0;
  #text = '';
  #answer = null;
  #timer = null;

  /** @param {Element} region an element with aria-live */
  constructor(region) {
    this.#region = region;
  }

  /** A short message of its own. */
  say(text) {
    this.#region.textContent = text;
  }

  /** @param {object} answer stands for it in later calls */
  begin(answer) {
    this.#turnTo(answer, 0);
    this.say('Answering.');
  }

  /** @param {string} text all of the answer so far */
  grow(answer, text) {
    // Back from another conversation: what has been written meanwhile is there to be read.
    if (answer !== this.#answer) this.#turnTo(answer, text.length);
    this.#text = text;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      const [sentences] = SENTENCES.exec(this.#text.slice(this.#said)) ?? [''];
      this.#speak(sentences);
    }, PAUSE);
  }

  /** Says what is left, and how it ended. */
  end(answer, text, how) {
    this.#turnTo(answer, answer === this.#answer ? this.#said : text.length);
    const rest = text.slice(this.#said).trim();
    this.say(rest === '' ? how : `${rest}\n${how}`);
  }

  #turnTo(answer, said) {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#answer = answer;
    this.#said = said;
    this.#text = '';
  }

  #speak(text) {
    this.#said += text.length;
    if (text.trim() !== '') this.say(text.trim());
  }
}
