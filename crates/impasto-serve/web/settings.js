/** Sampling settings and the system prompt. An empty field leaves the choice to the server. */
import { byId } from './dom.js';

const FIELDS = {
  temperature: { min: 0, max: 2, whole: false },
  top_p: { min: 0, max: 1, whole: false },
  max_tokens: { min: 1, max: 1_000_000, whole: true },
  seed: { min: 0, max: Number.MAX_SAFE_INTEGER, whole: true },
};

/** @returns {number|undefined|null} null where the text is no such number */
export function readNumber(text, { min, max, whole }) {
  if (text.trim() === '') return undefined;
  const value = Number(text);
  const fits = Number.isFinite(value) && value >= min && value <= max && (!whole || Number.isInteger(value));
  return fits ? value : null;
}

export class SettingsPanel {
  #sampling;

  /**
   * @param {object} sampling as kept
   * @param {(sampling: object) => void} onsampling
   * @param {(system: string) => void} onsystem
   */
  constructor(sampling, onsampling, onsystem) {
    this.#sampling = {};
    for (const [name, rule] of Object.entries(FIELDS)) {
      const field = byId(name);
      const kept = readNumber(String(sampling[name] ?? ''), rule);
      if (typeof kept === 'number') {
        this.#sampling[name] = kept;
        field.value = String(kept);
      }
      field.addEventListener('input', () => {
        this.#read(name, field);
        onsampling(this.#sampling);
      });
    }
    byId('reset-sampling').addEventListener('click', () => {
      for (const name of Object.keys(FIELDS)) {
        byId(name).value = '';
        this.#read(name, byId(name));
      }
      onsampling(this.#sampling);
    });
    byId('system').addEventListener('input', (event) => onsystem(event.target.value));
  }

  get sampling() {
    return this.#sampling;
  }

  /** @param {boolean} chat without a template there is no system prompt */
  showSystem(system, chat) {
    const field = byId('system');
    if (field.value !== system) field.value = system;
    field.disabled = !chat;
    byId('no-template').hidden = chat;
  }

  #read(name, field) {
    const value = field.validity.badInput ? null : readNumber(field.value, FIELDS[name]);
    field.setAttribute('aria-invalid', String(value === null));
    byId(`${name}-rule`).hidden = value !== null;
    if (typeof value === 'number') this.#sampling[name] = value;
    else delete this.#sampling[name];
  }
}
