import { mkdtempSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Far more than anything takes on a machine that is busy with other things. */
const PATIENCE_MS = 300_000;

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SCREENSHOTS = process.env.SCREENSHOTS ?? mkdtempSync(join(tmpdir(), 'sluice-dashboard-'));
mkdirSync(SCREENSHOTS, { recursive: true });

/** @param {string} name */
export function required(name) {
  const value = process.env[name];
  if (!value) {
    throw new Error(`${name} is not set: these tests drive a deployed page, at ADMIN_URL with its two tokens.`);
  }
  return value;
}

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
}

/**
 * A page of its own, and what went wrong on it: errors in the console, exceptions, and what its policy has refused.
 * @param {import('playwright-core').Browser} browser
 * @param {{ colorScheme?: 'light' | 'dark', width?: number, url?: string }} [look]
 */
export async function open(browser, { colorScheme = 'light', width = 1360, url = required('ADMIN_URL') } = {}) {
  const context = await browser.newContext({
    colorScheme,
    // A colour that is still on its way is no colour to judge.
    reducedMotion: 'reduce',
    viewport: { width, height: 1000 },
  });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  /** @type {string[]} */
  const faults = [];
  page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
  page.on('pageerror', (error) => faults.push(String(error)));
  await page.exposeFunction('refused', (/** @type {string} */ what) => faults.push(what));
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      Reflect.get(window, 'refused')(`${event.violatedDirective} refused ${event.blockedURI}`);
    });
  });
  await page.goto(url);
  return { page, faults };
}

/**
 * @param {import('playwright-core').Page} page
 * @param {string} token
 */
export async function signIn(page, token) {
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Sign in' }).click();
}

/**
 * Opens a tab, and waits until it has its data.
 * @param {import('playwright-core').Page} page
 * @param {string} name
 */
export async function openTab(page, name) {
  await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name }).click();
  await page.getByRole('heading', { level: 1, name }).waitFor();
  await page.waitForFunction(
    () => document.querySelector('.loaded') && !document.querySelector('.skeleton, [aria-busy="true"]'),
  );
}

/**
 * The serious and critical faults that axe finds, each with the elements that have it.
 * @param {import('playwright-core').Page} page
 * @returns {Promise<string[]>}
 */
export async function barriers(page) {
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    /** @type {import('axe-core').AxeResults} */
    const { violations } = await Reflect.get(window, 'axe').run();
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`));
  });
}

/**
 * @param {import('playwright-core').Page} page
 * @param {string} name
 */
export async function screenshot(page, name) {
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
}
