// Drives the board of a stack with LIVE=1, at BOARD_URL, in a browser. Each page is somebody else's, with accounts and notes of its own.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import { barriers, launch, open, required, screenshot } from '../../../functions/admin/dashboard/e2e/browser.mjs';

const PASSWORD = 'a password of the tests';
const url = required('BOARD_URL');

/** @type {import('playwright-core').Browser} */
let browser;

before(async () => {
  browser = await launch();
});

after(() => browser?.close());

/** A person who has just registered, on a page that is connected. */
async function join(name, look = {}) {
  const { page, faults } = await open(browser, { url, ...look });
  const email = `${name}-${randomUUID().slice(0, 8)}@example.com`;
  await page.getByLabel('Address').fill(email);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Register' }).click();
  await isIn(page, 'Live');
  return { page, faults, email };
}

/** Until the state is shown, and nothing is on the way. */
const isIn = (page, state) => page.locator('#state').getByText(state, { exact: true }).waitFor();

/** The note with this title, which is found by what stands in its field. */
const note = async (page, title) => {
  const found = await page.waitForFunction(
    (title) => [...document.querySelectorAll('.note')].find((note) => note.querySelector('input').value === title),
    title,
  );
  return page.locator(`.note[data-id="${await found.evaluate((element) => element.dataset.id)}"]`);
};

async function add(page, lane, title) {
  await page.getByRole('region', { name: lane }).getByRole('button', { name: 'Add a note' }).click();
  // The new note has the focus.
  await page.waitForFunction(() => document.activeElement?.matches('.note input'));
  await page.keyboard.type(title);
  await page.keyboard.press('Tab');
  return note(page, title);
}

/** By id: title, text and lane. */
const shown = (page, ids) =>
  page.evaluate(
    (ids) => ids.map((id) => [...document.querySelectorAll(`[data-id="${id}"] :is(input, textarea)`)].map(({ value }) => value).concat(document.querySelector(`[data-id="${id}"]`)?.closest('section').ariaLabel ?? 'gone')),
    ids,
  );

test('what one writes the other sees, edits, moves and deletes', async () => {
  const [ada, ben] = [await join('ada'), await join('ben')];
  const title = `Bread ${randomUUID().slice(0, 8)}`;
  const hers = await add(ada.page, 'To do', title);
  const his = await note(ben.page, title);
  await his.getByLabel('Text').fill('two loaves');
  await ada.page.waitForFunction((id) => document.querySelector(`[data-id="${id}"] textarea`).value === 'two loaves', await hers.getAttribute('data-id'));
  await hers.getByRole('button', { name: 'Move to Doing' }).click();
  await ben.page.getByRole('region', { name: 'Doing' }).locator(`[data-id="${await his.getAttribute('data-id')}"]`).waitFor();
  await his.getByRole('button', { name: 'Delete' }).click();
  await hers.waitFor({ state: 'detached' });
  await isIn(ben.page, 'Live');
  assert.deepEqual([...ada.faults, ...ben.faults], []);
});

test('who was offline has both sides of a conflict, and all are equal', async () => {
  const [ada, ben] = [await join('ada'), await join('ben', { colorScheme: 'dark' })];
  const title = `Minutes ${randomUUID().slice(0, 8)}`;
  const hers = await add(ada.page, 'To do', title);
  const id = await hers.getAttribute('data-id');
  const his = await note(ben.page, title);
  await isIn(ada.page, 'Live');

  await ada.page.getByLabel('Work offline').check();
  await isIn(ada.page, 'Offline');
  await hers.getByLabel('Title').fill(`${title}, by Ada`);
  await hers.getByRole('button', { name: 'Move to Doing' }).click();
  const added = await add(ada.page, 'To do', `${title}, the next`);
  await his.getByLabel('Title').fill(`${title}, by Ben`);
  await his.getByLabel('Text').fill('with an agenda');
  await isIn(ben.page, 'Live');

  // What was written offline is there after the page was loaded anew.
  await ada.page.reload();
  await note(ada.page, `${title}, by Ada`);
  await note(ada.page, `${title}, the next`);
  await ada.page.locator('#state').getByText('2 changes waiting').waitFor();
  await screenshot(ada.page, 'board-offline');

  await ada.page.getByLabel('Work offline').uncheck();
  await ada.page.getByText(`Somebody else changed “${title}, by Ada”, too.`).waitFor();
  await isIn(ada.page, 'Live');
  const ids = [id, await added.getAttribute('data-id')];
  const wanted = [
    [`${title}, by Ada`, 'with an agenda', 'Doing'],
    [`${title}, the next`, '', 'To do'],
  ];
  await ben.page.waitForFunction((id) => document.querySelector(`[data-id="${id}"]`), ids[1]);
  await note(ben.page, `${title}, by Ada`);
  assert.deepEqual(await shown(ada.page, ids), wanted);
  assert.deepEqual(await shown(ben.page, ids), wanted);

  const conflict = ada.page.locator('#conflicts li').filter({ hasText: `${title}, by Ben` });
  await conflict.getByText(`${title}, by Ada`).waitFor();
  await screenshot(ada.page, 'board-conflict-light');
  await ben.page.reload();
  await ben.page.locator('#conflicts li').first().waitFor();
  await screenshot(ben.page, 'board-conflict-dark');
  assert.deepEqual(await barriers(ada.page), []);
  assert.deepEqual(await barriers(ben.page), []);

  await conflict.getByRole('button', { name: 'Use what was there' }).click();
  await note(ben.page, `${title}, by Ben`);
  await ada.page.getByRole('button', { name: 'Dismiss all' }).click();
  await ada.page.locator('#conflicts').waitFor({ state: 'hidden' });
  assert.deepEqual([...ada.faults, ...ben.faults], []);
});

test('a wrong password is told, and whoever logs out leaves nothing', async () => {
  const { page, faults, email } = await join('eve', { width: 420 });
  const title = `Narrow ${randomUUID().slice(0, 8)}`;
  await add(page, 'Done', title);
  await isIn(page, 'Live');
  await screenshot(page, 'board-narrow');
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByLabel('Address').waitFor();
  assert.equal((await page.evaluate(() => indexedDB.databases())).length, 0);
  await page.getByLabel('Address').fill(email);
  await page.getByLabel('Password').fill('another password');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').filter({ hasText: /\w/ }).waitFor();
  assert.deepEqual(await barriers(page), []);
  await screenshot(page, 'board-login');
  await page.getByLabel('Password').fill(PASSWORD);
  await page.keyboard.press('Enter');
  await note(page, title);
  // The browser reports the refused request by itself.
  assert.deepEqual(faults.filter((fault) => !fault.includes('401')), []);
});
