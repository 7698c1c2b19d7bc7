/** The keyboard. The help dialog lists the same keys. */

/**
 * @param {object} actions
 * @param {() => void} actions.focus
 * @param {() => void} actions.help
 * @param {() => void} actions.editLast
 * @param {() => boolean} actions.closeDrawer whether one was open
 * @param {() => void} actions.stop
 */
export function wireKeys(actions) {
  document.addEventListener('keydown', (event) => {
    if (event.isComposing || event.defaultPrevented || document.querySelector('dialog[open]')) return;
    const typing = event.target.closest('input:not([type=range]):not([type=checkbox]), textarea, select') !== null;
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (event.key === 'Escape') {
      if (!actions.closeDrawer()) actions.stop();
    } else if (event.key === 'ArrowUp' && event.altKey) {
      actions.editLast();
    } else if (event.key === '/' && plain && !typing) {
      actions.focus();
    } else if (event.key === '?' && plain && !typing) {
      actions.help();
    } else {
      return;
    }
    event.preventDefault();
  });
}
