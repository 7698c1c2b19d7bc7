/** Chromium for the tests, and pages that fail a test where they log an error, break the policy or ask another host. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** The address of a real server to be tested, or undefined. */
export const REAL = process.env.IMPASTO_SERVER?.replace(/\/$/, '');

let browser = null;

async function launch() {
  const executablePath = process.env.CHROMIUM ?? execFileSync('which', ['chromium']).toString().trim();
  browser ??= await chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] });
  return browser;
}

export async function closeBrowser() {
  await browser?.close();
}

/**
 * Opens the page in a fresh profile.
 * @param {import('node:test').TestContext} t
 * @param {string} url
 * @param {object} options of the browser context, and `expected`: a pattern of console errors that the test causes
 */
export async function openPage(t, url, { expected = null, ready = true, ...options } = {}) {
  const context = await (await launch()).newContext({ viewport: { width: 1360, height: 850 }, colorScheme: 'light', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const problems = [];
  page.on('console', (message) => {
    if (message.type() === 'error' && !expected?.test(message.text())) problems.push(message.text());
  });
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== url && !request.url().startsWith('blob:')) problems.push(`asked ${request.url()}`);
  });
  await page.exposeFunction('reportViolation', (text) => problems.push(text));
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => window.reportViolation(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(problems, []);
  });
  await page.goto(`${url}/`);
  if (ready) await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
  return page;
}

/** Asks, and waits for the end of the answer. */
export async function ask(page, text) {
  await send(page, text);
  await ended(page);
}

export async function send(page, text) {
  await page.fill('#question', text);
  await page.press('#question', 'Enter');
}

export async function ended(page) {
  await page.waitForFunction(() => {
    const last = document.querySelector('.answer:last-child');
    return last?.getAttribute('aria-busy') === 'false' && document.querySelector('#stop').hidden;
  });
}

/** Fails where axe finds anything. */
export async function assertAccessible(page, name) {
  // Playwright evaluates outside the page's policy.
  await page.evaluate(AXE);
  // Colours are not what they will be while a drawer moves in.
  await page.evaluate(() => Promise.all(document.getAnimations()
    .filter((animation) => animation.effect.getComputedTiming().endTime !== Infinity).map((animation) => animation.finished.catch(() => {}))));
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const found = violations.map((entry) => `${name}: ${entry.id}: ${entry.nodes.map((node) => `${node.html} ${node.failureSummary}`).join('\n')}`);
  assert.deepEqual(found, []);
}

/** Fails where the page is wider than the window. */
export async function assertNoSidewaysScroll(page) {
  const [scroll, width] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  assert.ok(scroll <= width, `the page is ${scroll} wide in a window of ${width}`);
}
