/** The model, and the slider over the layers of its file. */
import { byId, h } from './dom.js';
import { bits, seconds, significant, size } from './format.js';

const STATES = {
  loaded: 'In memory.',
  loading: 'Loading\u2026',
  unloaded: 'Not in memory. The next question loads it.',
  failed: 'It could not be loaded.',
  arriving: 'Its first layer is arriving.',
};

const arrived = (layer) => layer.state !== 'arriving';

/** Position in `layers` of the layer that answers, or -1: the chosen one, or the best that has arrived. */
export function layerInUse(model, chosen) {
  const own = model.layers.findIndex((layer) => layer.layer === chosen && arrived(layer));
  if (own >= 0) return own;
  const serving = model.layers.findIndex((layer) => layer.layer === model.serving?.layer);
  return serving >= 0 ? serving : model.layers.findLastIndex(arrived);
}

/** The name to ask for: of a layer only where the person chose one, since the server follows the file. */
export function nameToAsk(model, chosen) {
  return model.layers.find((layer) => layer.layer === chosen && arrived(layer))?.id ?? model.id;
}

/** A layer in words, with the unit of each number. */
function describe(layer, count) {
  const parts = count > 1 ? [`Layer ${layer.layer} of ${count}`] : [];
  if (layer.bitsPerWeight !== null) parts.push(`${bits(layer.bitsPerWeight)} bits per weight`);
  parts.push(size(layer.bytes));
  if (layer.kld !== null) parts.push(`KL divergence ${significant(layer.kld)}`);
  return parts.join(', ');
}

export class QualityPanel {
  #onmodel;
  #onlayer;
  #built = '';
  #model = null;

  /**
   * @param {(id: string) => void} onmodel
   * @param {(layer: number|null) => void} onlayer null: the best that has arrived
   */
  constructor(onmodel, onlayer) {
    this.#onmodel = onmodel;
    this.#onlayer = onlayer;
    byId('model').addEventListener('change', (event) => onmodel(event.target.value));
    byId('quality').addEventListener('input', (event) => this.#slide(event.target));
    byId('best').addEventListener('change', (event) => {
      const { layers } = this.#model;
      onlayer(event.target.checked ? null : layers[layerInUse(this.#model, null)]?.layer ?? null);
    });
  }

  /** @param {import('./api.js').Model[]} models */
  show(models, model, chosen) {
    this.#model = model;
    this.#showModels(models, model);
    byId('model-details').hidden = model === null;
    byId('model-chip').querySelector('.chip-text').textContent = model === null ? 'No model' : chipText(model, chosen);
    byId('model-chip').dataset.state = model?.state ?? 'failed';
    if (model === null) return;
    byId('model-state').textContent = stateText(model);
    byId('model-state').classList.toggle('problem', model.state === 'failed');
    this.#showArrival(model);
    this.#showLayers(model, chosen);
  }

  #showModels(models, model) {
    const select = byId('model');
    const ids = models.map((entry) => entry.id);
    if ([...select.options].map((option) => option.value).join('\n') !== ids.join('\n')) {
      select.replaceChildren(...ids.map((id) => h('option', { value: id }, id)));
    }
    select.value = model?.id ?? '';
    select.disabled = models.length === 0;
  }

  #showArrival(model) {
    const arriving = model.fileBytes > model.arrivedBytes;
    byId('arrival').hidden = !arriving;
    if (!arriving) return;
    byId('arrival-bar').max = model.fileBytes;
    byId('arrival-bar').value = model.arrivedBytes;
    byId('arrival-text').textContent = `${size(model.arrivedBytes)} of ${size(model.fileBytes)} has arrived`;
  }

  #showLayers(model, chosen) {
    const used = layerInUse(model, chosen);
    const slider = byId('quality');
    byId('quality-control').hidden = model.layers.length < 2;
    slider.max = String(Math.max(1, model.layers.length));
    slider.value = String(used + 1);
    slider.setAttribute('aria-valuetext', used < 0 ? 'No layer has arrived' : describe(model.layers[used], model.layers.length));
    byId('best').checked = chosen === null || !model.layers.some((layer) => layer.layer === chosen && arrived(layer));

    const built = JSON.stringify([model.id, model.layers.map((layer) => layer.layer)]);
    const list = byId('layers');
    if (built !== this.#built) {
      list.replaceChildren(...model.layers.map((layer) => this.#row(layer)));
      this.#built = built;
    }
    model.layers.forEach((layer, index) => {
      const before = index === 0 ? 0 : model.layers[index - 1].bytes;
      updateRow(list.children[index], layer, before, model, index === used);
    });
    byId('quality-value').textContent = used < 0 ? 'No layer has arrived yet' : describe(model.layers[used], model.layers.length);
  }

  #row(layer) {
    return h('li', { class: 'layer' },
      h('button', { type: 'button', class: 'layer-button', onclick: () => this.#onlayer(layer.layer) },
        cell('name', 'Layer ', ''),
        cell('bits', '', ' bits per weight'),
        cell('size', '', ''),
        cell('kld', 'KL divergence ', '')),
      h('progress', { max: 1, 'aria-label': `Layer ${layer.layer} arriving` }));
  }

  /** The slider stops at the last layer that has arrived. */
  #slide(slider) {
    const { layers } = this.#model;
    const last = layers.findLastIndex(arrived);
    const index = Math.min(Number(slider.value) - 1, last);
    slider.value = String(index + 1);
    if (index >= 0) this.#onlayer(layers[index].layer);
  }
}

/** A number of a row. The column says what it is to the eye, the words around it to the ear. */
function cell(name, before, after) {
  return h('span', { class: `layer-${name}` },
    h('span', { class: 'offscreen' }, before), h('span', { class: 'value' }), h('span', { class: 'offscreen' }, after));
}

function updateRow(row, layer, before, model, used) {
  const button = row.querySelector('button');
  button.disabled = !arrived(layer);
  row.classList.toggle('used', used);
  if (used) button.setAttribute('aria-current', 'true');
  else button.removeAttribute('aria-current');
  const set = (name, text) => (row.querySelector(`.layer-${name} .value`).textContent = text);
  set('name', String(layer.layer));
  set('bits', layer.bitsPerWeight === null ? '\u2013' : layer.bitsPerWeight.toFixed(2));
  set('size', size(layer.bytes));
  set('kld', layer.kld === null ? '\u2013' : significant(layer.kld));
  const bar = row.querySelector('progress');
  bar.hidden = arrived(layer);
  const own = layer.bytes - before;
  bar.value = own > 0 ? Math.min(1, Math.max(0, (model.arrivedBytes - before) / own)) : 0;
}

function chipText(model, chosen) {
  const used = model.layers[layerInUse(model, chosen)];
  return used?.bitsPerWeight == null ? model.id : `${model.id} \u00b7 ${bits(used.bitsPerWeight)} bits`;
}

function stateText(model) {
  const parts = [STATES[model.state] ?? model.state];
  if (model.state === 'failed' && model.error) parts[0] = `${parts[0]} ${model.error}`;
  if (model.base) parts.push(`A fine-tune of ${model.base}.`);
  if (model.context) parts.push(`Context of ${model.context} tokens.`);
  const { profile, promoted_blocks: promoted } = model.serving ?? {};
  if (profile === 'promoted') parts.push(`${promoted} ${promoted === 1 ? 'block was' : 'blocks were'} given a finer layer, since it strayed.`);
  if (profile === 'conservative') parts.push('It strayed, so all of it runs at the conservative profile.');
  return parts.join(' ');
}

/** The figures of the newest answer. */
export function showSpeed(message) {
  const info = message?.info ?? {};
  const speed = info.tokens_per_second ?? info.speed;
  const facts = [
    ['Speed', speed ? `${significant(speed)} tokens/s` : null],
    ['First token', info.time_to_first_token === undefined ? null : `after ${seconds(info.time_to_first_token)}`],
    ['Prompt', info.prompt_tokens_per_second ? `${significant(info.prompt_tokens_per_second)} tokens/s` : null],
    ['Cached', info.cached_tokens === undefined ? null : cachedText(info)],
    ['Layer', info.layer ? String(info.layer) : null],
  ].filter(([, value]) => value !== null);
  byId('speed').replaceChildren(...facts.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
  byId('no-speed').hidden = facts.length > 0;
}

function cachedText(info) {
  return info.usage ? `${info.cached_tokens} of ${info.usage.prompt_tokens} prompt tokens` : `${info.cached_tokens} prompt tokens`;
}
