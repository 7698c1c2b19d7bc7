/** The list of conversations. */
import { byId, h, iconButton } from './dom.js';
import { titleOf } from './store.js';

/**
 * Shows the list.
 * @param {object} view
 * @param {import('./store.js').Conversation[]} view.conversations
 * @param {string} view.current id
 * @param {(id: string) => boolean} view.running whether an answer is being written
 * @param {object} actions select, rename, remove, save: each takes a conversation
 */
export function showConversations({ conversations, current, running }, actions) {
  const list = byId('conversations');
  // A name that is being typed is not taken away.
  if (list.querySelector('input')) return;
  byId('no-conversations').hidden = conversations.length > 0;
  byId('export-all').hidden = conversations.length === 0;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  list.replaceChildren(...conversations.map((conversation) => row(conversation, conversation.id === current, running, actions)));
  if (focused) [...list.querySelectorAll('[data-key]')].find((element) => element.dataset.key === focused)?.focus();
}

function row(conversation, selected, running, actions) {
  const title = titleOf(conversation);
  const open = h('button', { type: 'button', class: 'conversation-title', title, onclick: () => actions.select(conversation) },
    running(conversation.id) ? h('span', { class: 'pulse', role: 'img', 'aria-label': 'answering' }) : null, title);
  if (selected) open.setAttribute('aria-current', 'page');
  const item = h('li', { class: 'conversation' },
    open,
    h('span', { class: 'row-tools' },
      iconButton('edit', `Rename \u201c${title}\u201d`, () => rename(item, conversation, actions)),
      iconButton('download', `Export \u201c${title}\u201d`, () => actions.save(conversation)),
      iconButton('trash', `Delete \u201c${title}\u201d`, () => actions.remove(conversation))));
  [...item.querySelectorAll('button')].forEach((button, index) => (button.dataset.key = `${conversation.id} ${index}`));
  return item;
}

function rename(item, conversation, actions) {
  let ended = false;
  const end = (keep) => {
    if (ended) return;
    ended = true;
    const title = input.value.trim();
    input.remove();
    actions.rename(conversation, keep ? title : conversation.title);
  };
  const input = h('input', {
    class: 'rename', value: titleOf(conversation), maxLength: 120, 'aria-label': 'Name of the conversation', onblur: () => end(true),
    onkeydown: (event) => {
      if (event.key === 'Enter' && !event.isComposing) end(true);
      if (event.key === 'Escape') end(false);
      event.stopPropagation();
    },
  });
  item.replaceChildren(input);
  input.focus();
  input.select();
}

/** Hands a value to the person as a file. */
export function download(name, value) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: 'application/json' }));
  h('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
