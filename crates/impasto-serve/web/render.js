/** Shows nodes (see inline.js) in the document, changing only what differs, so that a growing answer does not flicker. */
import { parseBlocks } from './markdown.js';

/** The node that each element shows. */
const shown = new WeakMap();

/** Makes the children of `parent` show `nodes`. */
export function patch(parent, nodes) {
  nodes.forEach((node, index) => {
    const old = parent.childNodes[index];
    if (typeof node === 'string') {
      if (old?.nodeType !== Node.TEXT_NODE) place(parent, old, document.createTextNode(node));
      else if (old.data !== node) old.data = node;
      return;
    }
    const before = old && shown.get(old);
    if (before === node) return;
    const same = before && before.tag === node.tag && sameAttributes(before.attrs, node.attrs);
    const target = same ? old : create(node);
    if (!same) place(parent, old, target);
    patch(target, node.children);
    shown.set(target, node);
  });
  while (parent.childNodes.length > nodes.length) parent.lastChild.remove();
}

function place(parent, old, node) {
  if (old) old.replaceWith(node);
  else parent.append(node);
}

function create(node) {
  const element = document.createElement(node.tag);
  for (const [name, value] of Object.entries(node.attrs)) element.setAttribute(name, value);
  return element;
}

function sameAttributes(a, b) {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
}

/** Markdown that grows at its end. Each update reads from the last block on. */
export class MarkdownView {
  #root;
  #text = '';
  #settled = [];
  #from = 0;

  constructor(root) {
    this.#root = root;
  }

  /**
   * @param {string} text all of it
   * @param {boolean} open whether more may follow
   */
  update(text, open) {
    if (!open || !text.startsWith(this.#text)) {
      this.#settled = [];
      this.#from = 0;
    }
    this.#text = text;
    const blocks = parseBlocks(text.slice(this.#from), open);
    patch(this.#root, [...this.#settled, ...blocks.map((block) => block.node)]);
    if (open && blocks.length > 1) {
      const last = blocks.pop();
      this.#settled.push(...blocks.map((block) => block.node));
      this.#from += last.start;
    }
  }
}
