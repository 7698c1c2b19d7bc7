// Runs before the page is drawn, so that a chosen theme does not flash. See theme.js.
try {
  const theme = localStorage.getItem('impasto.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage is off: the system's theme it is.
}
