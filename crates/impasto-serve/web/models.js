/** Keeps the list of models up to date: often while something changes, rarely else, and whenever the person comes back to the page. */
import { listModels } from './api.js';
import { askForKey } from './dialogs.js';
import { byId } from './dom.js';

/** Milliseconds, while a file arrives, a model loads or the server is away; else. */
const OFTEN = 2_000;
const RARELY = 30_000;
const TIMEOUT = 20_000;

export class ModelList {
  /** @type {import('./api.js').Model[]} */
  models = [];
  #onread;
  #timer = null;
  /** The read that is under way. */
  #reading = null;
  /** Whether the person closed the dialog that asks for a key; then it opens again only on request. */
  #keyRefused = false;

  /** @param {() => void} onread told after each read */
  constructor(onread) {
    this.#onread = onread;
    byId('offline-retry').addEventListener('click', () => {
      this.#keyRefused = false;
      this.read();
    });
    window.addEventListener('focus', () => this.read());
    document.addEventListener('visibilitychange', () => document.hidden || this.read());
  }

  /** Reads the list now. It never fails: what is wrong is shown. */
  read() {
    this.#reading ??= this.#read().finally(() => (this.#reading = null));
    return this.#reading;
  }

  async #read() {
    clearTimeout(this.#timer);
    const reached = await listModels(AbortSignal.timeout(TIMEOUT)).then(
      (models) => {
        this.models = models;
        this.#keyRefused = false;
        byId('offline').hidden = true;
        return true;
      },
      (error) => this.#showProblem(error));
    this.#onread();
    const changing = this.models.some((model) => model.state === 'loading' || model.arrivedBytes < model.fileBytes);
    const wait = changing || !reached ? OFTEN : RARELY;
    this.#timer = setTimeout(() => document.hidden || this.read(), this.#keyRefused ? RARELY : wait);
  }

  #showProblem(error) {
    if (error.status === 401 && !this.#keyRefused) {
      askForKey(error.message, () => this.read(), () => (this.#keyRefused = true));
      return true;
    }
    const silent = error.name === 'TimeoutError' || error.name === 'AbortError';
    byId('offline-text').textContent = silent ? 'The server does not answer.' : error.message;
    byId('offline').hidden = false;
    return false;
  }
}
