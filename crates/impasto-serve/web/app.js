/** Puts the parts of the page together. State lives here; the other modules show it or fetch it. */
import { writeAnswer } from './chat.js';
import { askForKey } from './dialogs.js';
import { byId } from './dom.js';
import { fitQuestion, wireFrame } from './frame.js';
import { Announcer } from './live.js';
import { ModelList } from './models.js';
import { QualityPanel, nameToAsk, showSpeed } from './quality.js';
import { SettingsPanel } from './settings.js';
import { download, showConversations } from './sidebar.js';
import { Store, browserStorage, newConversation, titleOf } from './store.js';
import { closeToast, toast } from './toast.js';
import { Transcript } from './transcript.js';

/** Milliseconds between saves of an answer that is being written. */
const SAVE_EVERY = 1_000;

const store = new Store(browserStorage());
const settings = store.settings();
settings.sampling ??= {};
settings.layers ??= {};
let conversations = store.conversations();
let current = conversations.find((entry) => entry.id === settings.conversation) ?? newConversation(lastSystem());
/** Ends each answer that is being written, by conversation. */
const running = new Map();
let lastSave = 0;

const announcer = new Announcer(byId('announcer'));
const transcript = new Transcript({
  edit: (message, text) => replaceFrom(message, [{ role: 'user', content: text }], 'The later messages were replaced.'),
  retry: (message) => replaceFrom(message, [], 'The answer was replaced.'),
  example: (text) => {
    byId('question').value = text;
    submit();
  },
  copied: () => toast(byId('toasts'), 'Copied.'),
  failed: (error) => toast(byId('toasts'), `Not copied: ${error.message}`),
});
const quality = new QualityPanel(
  (id) => {
    settings.model = id;
    settingsChanged();
  },
  (layer) => {
    const model = currentModel();
    if (layer === null) delete settings.layers[model.id];
    else settings.layers[model.id] = layer;
    settingsChanged();
  });
const settingsPanel = new SettingsPanel(
  settings.sampling,
  (sampling) => {
    settings.sampling = sampling;
    store.saveSettings(settings);
  },
  (system) => {
    current.system = system;
    if (current.messages.length > 0) save(current);
  });

function lastSystem() {
  return conversations[0]?.system ?? '';
}

function currentModel() {
  return list.models.find((model) => model.id === settings.model) ?? list.models[0] ?? null;
}

function chosenLayer() {
  return settings.layers[currentModel()?.id] ?? null;
}

function isChat() {
  return currentModel()?.chat ?? true;
}

function settingsChanged() {
  store.saveSettings(settings);
  showModels();
}

// What is shown.

function showModels() {
  quality.show(list.models, currentModel(), chosenLayer());
  settingsPanel.showSystem(current.system, isChat());
  byId('composer-note').hidden = isChat();
  byId('question').placeholder = isChat() ? 'Ask something' : 'Write the beginning of a text';
  transcript.show(current, !isChat());
}

function showList() {
  showConversations({ conversations, current: current.id, running: (id) => running.has(id) }, {
    select: (conversation) => {
      select(conversation);
      if (sidebar.isOver) sidebar.close();
      byId('question').focus();
    },
    rename: (conversation, title) => {
      conversation.title = title;
      conversation.named = title !== '';
      save(conversation);
      showList();
      showTitle();
    },
    remove,
    save: (conversation) => download(`${titleOf(conversation).replace(/[^\p{L}\p{N} ]/gu, '').trim() || 'conversation'}.json`, conversation),
  });
}

function showTitle() {
  const title = titleOf(current);
  byId('title').textContent = title;
  document.title = current.messages.length > 0 ? `${title} \u2013 Impasto` : 'Impasto';
}

function showRunning() {
  const active = running.has(current.id);
  byId('send').hidden = active;
  byId('stop').hidden = !active;
}

function showAll() {
  showTitle();
  showList();
  showModels();
  showRunning();
  showSpeed(current.messages.findLast((message) => message.role === 'assistant'));
}

function select(conversation) {
  current = conversation;
  settings.conversation = conversation.id;
  store.saveSettings(settings);
  showAll();
}

// Conversations.

function save(conversation) {
  conversation.updated = Date.now();
  lastSave = performance.now();
  byId('storage-full').hidden = store.save(conversation);
  if (!conversations.includes(conversation)) conversations.unshift(conversation);
}

function startConversation() {
  if (current.messages.length > 0) select(newConversation(current.system));
  if (sidebar.isOver) sidebar.close();
  byId('question').focus();
}

function remove(conversation) {
  running.get(conversation.id)?.abort();
  const place = conversations.indexOf(conversation);
  conversations = conversations.filter((entry) => entry !== conversation);
  store.remove(conversation.id);
  if (conversation === current) select(conversations[place] ?? conversations[0] ?? newConversation());
  else showList();
  byId('conversations').querySelector('[aria-current]')?.focus();
  toast(byId('toasts'), `\u201c${titleOf(conversation)}\u201d was deleted.`, {
    label: 'Undo',
    run: () => {
      conversations.splice(place, 0, conversation);
      store.save(conversation);
      select(conversation);
    },
  });
}

/** Drops a message and all after it, puts others there, and asks again. It can be undone. */
function replaceFrom(message, messages, notice) {
  const conversation = current;
  const place = conversation.messages.indexOf(message);
  if (place < 0) return;
  running.get(conversation.id)?.abort();
  const before = [...conversation.messages];
  const dropped = conversation.messages.splice(place, Infinity, ...messages);
  ask(conversation);
  if (dropped.every((entry) => entry.content === '')) return;
  toast(byId('toasts'), notice, {
    label: 'Undo',
    run: () => {
      running.get(conversation.id)?.abort();
      running.delete(conversation.id);
      conversation.messages = before;
      save(conversation);
      showAll();
    },
  });
}

// Answers.

function submit() {
  const field = byId('question');
  if (field.value.trim() === '' || running.has(current.id)) return;
  current.messages.push({ role: 'user', content: field.value });
  field.value = '';
  fitQuestion();
  // What could be undone would take the new question along.
  closeToast(byId('toasts'));
  ask(current);
}

/** Has the answer to the last question of a conversation written. */
async function ask(conversation) {
  const answer = { role: 'assistant', content: '', state: 'waiting' };
  conversation.messages.push(answer);
  const controller = new AbortController();
  running.set(conversation.id, controller);
  save(conversation);
  settings.conversation = conversation.id;
  store.saveSettings(settings);
  showAll();
  transcript.toEnd();
  byId('question').focus();
  announcer.begin(answer);

  const shown = () => conversation === current && conversation.messages.includes(answer);
  const write = () => writeAnswer({
    conversation,
    answer,
    model: currentModel() === null ? '' : nameToAsk(currentModel(), chosenLayer()),
    chat: isChat(),
    sampling: settingsPanel.sampling,
    signal: controller.signal,
    onchange: () => {
      if (!shown()) return;
      transcript.grow();
      showSpeed(answer);
      announcer.grow(answer, answer.content);
      if (performance.now() - lastSave > SAVE_EVERY) save(conversation);
    },
  });
  const knewTemplate = currentModel()?.chat !== null;
  await write();
  if (answer.state === 'failed' && !knewTemplate) {
    // The server may only have seen when it loaded the model that there is no chat template.
    await list.read();
    if (!isChat() && shown()) await write();
  }

  if (running.get(conversation.id) === controller) running.delete(conversation.id);
  // It may have been replaced or deleted meanwhile.
  if (conversation.messages.includes(answer) && conversations.includes(conversation)) save(conversation);
  if (shown()) {
    const ends = { done: 'End of the answer.', stopped: 'Stopped.', failed: `Failed: ${answer.error?.message}` };
    announcer.end(answer, answer.content, ends[answer.state]);
  }
  showList();
  showRunning();
  if (answer.error?.status === 401) {
    askForKey(answer.error.message, () => {
      list.read();
      if (shown()) replaceFrom(answer, [], 'Asked again with the key.');
    });
  } else {
    list.read();
  }
}

function stop() {
  running.get(current.id)?.abort();
}

// The page.

const { sidebar } = wireFrame({ sidebar: settings.sidebar !== false, panel: settings.panel !== false }, {
  submit,
  stop,
  begin: startConversation,
  editLast: () => transcript.editLast(),
  exportAll: () => download('impasto-conversations.json', conversations),
  remember: (name, open) => {
    settings[name] = open;
    store.saveSettings(settings);
  },
});
const list = new ModelList(showModels);

window.addEventListener('pagehide', () => running.has(current.id) && store.save(current));
window.addEventListener('storage', (event) => {
  if (!store.concerns(event.key)) return;
  // Another tab changed the list. What is being written here stays as it is here.
  const own = new Map(conversations.filter((entry) => running.has(entry.id)).map((entry) => [entry.id, entry]));
  conversations = store.conversations().map((entry) => own.get(entry.id) ?? entry);
  if (!running.has(current.id)) {
    const other = conversations.find((entry) => entry.id === current.id);
    if (other && other.updated !== current.updated) current = other;
    else if (other) conversations[conversations.indexOf(other)] = current;
  }
  showAll();
});

showAll();
list.read();
if (matchMedia('(hover: hover)').matches) byId('question').focus();
