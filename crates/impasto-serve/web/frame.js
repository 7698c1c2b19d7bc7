/** The frame of the page: its drawers, buttons, keys and the field for a question. What they do is given by app.js. */
import { openHelp, wireDialogs } from './dialogs.js';
import { byId } from './dom.js';
import { Drawer } from './drawer.js';
import { wireKeys } from './keys.js';
import { themeButton } from './theme.js';

/**
 * @param {object} open whether the drawers are open where there is room: `{sidebar, panel}`
 * @param {object} actions submit, stop, begin, editLast, exportAll; `remember(name, open)` for the drawers
 * @returns {{sidebar: Drawer}}
 */
export function wireFrame(open, actions) {
  const drawer = (name, wide, other) => new Drawer({
    panel: byId(name), button: byId(`open-${name}`), wide: `(min-width: ${wide}px)`, open: open[name],
    others: [byId('main'), byId(other)], backdrop: byId(`${name}-backdrop`),
    onchange: (isOpen) => actions.remember(name, isOpen),
  });
  // The widths are those of style.css.
  const sidebar = drawer('sidebar', 900, 'panel');
  const panel = drawer('panel', 1200, 'sidebar');

  byId('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    actions.submit();
  });
  byId('question').addEventListener('input', fitQuestion);
  byId('question').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    actions.submit();
  });
  byId('stop').addEventListener('click', () => {
    actions.stop();
    byId('question').focus();
  });
  byId('new-conversation').addEventListener('click', actions.begin);
  byId('model-chip').addEventListener('click', () => (panel.isOpen ? byId('model').focus() : panel.open()));
  byId('close-sidebar').addEventListener('click', () => sidebar.close());
  byId('close-panel').addEventListener('click', () => panel.close());
  byId('open-help').addEventListener('click', openHelp);
  for (const button of document.querySelectorAll('[data-export-all]')) button.addEventListener('click', actions.exportAll);
  wireDialogs();
  themeButton(byId('theme'));
  wireKeys({
    focus: () => byId('question').focus(),
    help: openHelp,
    editLast: actions.editLast,
    closeDrawer: () => {
      const over = [panel, sidebar].find((entry) => entry.isOver);
      over?.close();
      return over !== undefined;
    },
    stop: actions.stop,
  });
  return { sidebar };
}

/** Makes the field as high as its text, where the style sheet cannot say so. */
export function fitQuestion() {
  if (CSS.supports('field-sizing', 'content')) return;
  const field = byId('question');
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight}px`;
}
