/** A short message at the foot of the page, with one action such as Undo. It waits while the pointer or the focus is on it. */
import { h } from './dom.js';

const SECONDS = 10;
let timer = null;

export function closeToast(place) {
  clearTimeout(timer);
  place.replaceChildren();
}

/**
 * @param {Element} place an element with role=status
 * @param {string} message
 * @param {{label: string, run: () => void} | null} action
 */
export function toast(place, message, action = null) {
  clearTimeout(timer);
  const close = () => closeToast(place);
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(close, SECONDS * 1000);
  };
  const box = h('div', { class: 'toast', onmouseenter: () => clearTimeout(timer), onmouseleave: wait, onfocusin: () => clearTimeout(timer),
    onfocusout: wait },
  h('span', {}, message),
  action && h('button', { type: 'button', class: 'text-button', onclick: () => {
    close();
    action.run();
  } }, action.label));
  place.replaceChildren(box);
  wait();
}
