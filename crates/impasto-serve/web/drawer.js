/** A side panel: part of the page where there is room, a drawer over it where there is none. */

export class Drawer {
  #panel;
  #button;
  #wide;
  #wideOpen;
  #others;
  #backdrop;
  #onchange;

  /**
   * @param {object} parts
   * @param {HTMLElement} parts.panel
   * @param {HTMLElement} parts.button opens and closes it
   * @param {string} parts.wide media query under which it is part of the page
   * @param {boolean} parts.open whether it is open then
   * @param {HTMLElement[]} parts.others what cannot be used while the drawer is over it
   * @param {HTMLElement} parts.backdrop
   * @param {(open: boolean) => void} parts.onchange told when the person opens or closes it as part of the page
   */
  constructor({ panel, button, wide, open, others, backdrop, onchange = () => {} }) {
    this.#panel = panel;
    this.#button = button;
    this.#wide = matchMedia(wide);
    this.#wideOpen = open;
    this.#others = others;
    this.#backdrop = backdrop;
    this.#onchange = onchange;
    button.addEventListener('click', () => (this.isOpen ? this.close() : this.open()));
    backdrop.addEventListener('click', () => this.isOver && this.close());
    this.#wide.addEventListener('change', () => this.#show(this.#wide.matches && this.#wideOpen));
    this.#show(this.#wide.matches && this.#wideOpen);
  }

  get isOpen() {
    return !this.#panel.hidden;
  }

  /** Whether it is open and covers the page. */
  get isOver() {
    return this.isOpen && !this.#wide.matches;
  }

  open() {
    this.#show(true);
    this.#remember(true);
    this.#panel.querySelector('button, input, select, textarea')?.focus();
  }

  close() {
    const inside = this.#panel.contains(document.activeElement);
    this.#show(false);
    this.#remember(false);
    if (inside) this.#button.focus();
  }

  #remember(open) {
    if (!this.#wide.matches) return;
    this.#wideOpen = open;
    this.#onchange(open);
  }

  #show(open) {
    this.#panel.hidden = !open;
    this.#button.setAttribute('aria-expanded', String(open));
    const over = this.isOver;
    for (const other of this.#others) other.inert = over;
    this.#backdrop.hidden = !over;
  }
}
