/** Light or dark: the system's choice unless the person makes another. */

const KEY = 'impasto.theme';
const systemDark = matchMedia('(prefers-color-scheme: dark)');

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : systemDark.matches;
}

/** Makes a button switch the theme. Going back to the system's theme follows the system again. */
export function themeButton(button) {
  const label = () => {
    const text = isDark() ? 'Use the light theme' : 'Use the dark theme';
    button.setAttribute('aria-label', text);
    button.title = text;
  };
  button.addEventListener('click', () => {
    const theme = isDark() ? 'light' : 'dark';
    const followSystem = (theme === 'dark') === systemDark.matches;
    if (followSystem) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      if (followSystem) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // Storage is off: the choice lasts until the page closes.
    }
    label();
  });
  systemDark.addEventListener('change', label);
  label();
}
