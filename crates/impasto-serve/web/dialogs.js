/** The dialogs: help, and the key that a server may ask for. */
import { byId } from './dom.js';
import { setKey } from './api.js';

export function openHelp() {
  byId('help').showModal();
}

/** Asks for the key. `onkey` runs when there is one, `onrefuse` when the person closes the dialog. */
export function askForKey(message, onkey, onrefuse = () => {}) {
  const dialog = byId('key-dialog');
  byId('key-problem').textContent = message;
  byId('key-form').onsubmit = (event) => {
    event.preventDefault();
    const key = byId('key').value.trim();
    if (key === '') return;
    setKey(key);
    byId('key').value = '';
    dialog.onclose = null;
    dialog.close();
    onkey();
  };
  dialog.onclose = onrefuse;
  if (!dialog.open) dialog.showModal();
}

/** Close buttons, and clicks on the backdrop. */
export function wireDialogs() {
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.addEventListener('click', (event) => {
      if (event.target === dialog || event.target.closest('[data-close]')) dialog.close();
    });
  }
}
