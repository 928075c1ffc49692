import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { barriers, launch, open, openTab, required, screenshot, signIn } from './browser.mjs';
import { clients } from './clients.mjs';
import { differences } from './differences.mjs';
import { generations } from './generations.mjs';
import { mend, poison, reject } from './poison.mjs';

const TABS = ['Overview', 'Outbox', 'Dead letters', 'Validation', 'Clients', 'Ingest', 'Audit'];

/** @type {import('playwright-core').Browser} */
let browser;

before(async () => {
  browser = await launch();
});

after(() => browser?.close());

test('a wrong token is refused, and says so', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, 'no-such-token');
  await page.getByRole('alert').getByText('This token is not accepted').waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  // The browser reports the refused request by itself.
  assert.deepEqual(
    faults.filter((fault) => !fault.includes('401')),
    [],
  );
});

test('a session ends when one signs out, and survives a reload until then', async () => {
  const { page } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await page.getByText('Operator', { exact: true }).waitFor();
  await page.reload();
  await page.getByText('Operator', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Token').waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});

test('a change arrives in the outbox, and is published', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Outbox');
  await page.getByRole('button', { name: 'Add user' }).click();
  const result = page.getByRole('region', { name: 'Results' });
  await result.getByText(/^User .+ added$/).waitFor();
  const written = await result.locator('code').allTextContents();
  assert.ok(written.length > 0, 'The answer names no row of the log.');
  for (const text of written) {
    const id = text.match(/#(\d+)/)?.[1];
    await page.locator(`tr[data-row="${id}"] .badge.good`).first().waitFor();
  }
  assert.deepEqual(faults, []);
});

test('the outbox refreshes itself until it is paused, and then asks for what is filtered alone', async () => {
  const { page } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Outbox');
  // Time goes on as before, and can be put forward.
  await page.clock.install();
  await page.reload();
  await page.locator('tr[data-row]').first().waitFor();
  const isAsked = (/** @type {{ url: () => string }} */ message) => message.url().includes('/api/outbox');
  const refreshed = page.waitForRequest(isAsked);
  await page.clock.fastForward('00:05');
  await refreshed;

  await page.getByRole('button', { name: 'Pause the refresh' }).click();
  await page.getByText('Paused').waitFor();
  await page.waitForLoadState('networkidle');
  /** @type {string[]} */
  const asked = [];
  page.on('request', (request) => isAsked(request) && asked.push(request.url()));
  await page.clock.fastForward('01:00');
  const filtered = page.waitForResponse(isAsked);
  const [stream = ''] = await page.getByLabel('Stream').selectOption({ index: 1 });
  await filtered;
  await page.waitForFunction(
    (stream) => [...document.querySelectorAll('td[data-name="Stream"]')].every((cell) => cell.textContent === stream),
    stream,
  );
  assert.equal(asked.length, 1);
  assert.ok(page.url().endsWith(`#/outbox?stream=${stream}`));
});

test('a poison letter is looked at, redriven once its cause is mended, gone, and in the audit', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Dead letters');
  const row = await poison(page);
  const id = await row.getAttribute('data-row');

  await row.getByRole('cell').nth(1).getByRole('button').click();
  const drawer = page.getByRole('dialog');
  await drawer.getByText(id ?? '').waitFor();
  assert.notEqual(await drawer.locator('.reason').textContent(), '');
  assert.deepEqual(await barriers(page), []);
  await screenshot(page, 'letter');

  await mend();
  await drawer.getByRole('button', { name: 'Redrive' }).click();
  await page
    .getByRole('region', { name: 'Results' })
    .getByText(/is redriven|went back to the queue/)
    .waitFor();
  await drawer.waitFor({ state: 'detached' });
  await row.waitFor({ state: 'detached' });

  await openTab(page, 'Audit');
  const audited = page.getByRole('row').filter({ hasText: id ?? '' });
  await audited.getByRole('cell', { name: 'redrive', exact: true }).first().waitFor();
  assert.deepEqual(faults, []);
});

test('selected letters are redriven by a task, and its progress is shown', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Dead letters');
  const row = await poison(page);
  await mend();

  await page.getByRole('button', { name: 'Redrive all…' }).click();
  await page
    .getByRole('dialog')
    .getByText(/letters? match/)
    .waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });

  await row.getByRole('checkbox').check();
  await page.getByRole('button', { name: 'Redrive selected' }).click();
  await page.getByText(/^Redrive .+ is done$/).waitFor();
  await row.waitFor({ state: 'detached' });
  assert.deepEqual(faults, []);
});

test('a letter is not discarded without a reason', async () => {
  const { page } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Dead letters');
  const row = await poison(page);
  await mend();
  await row.getByRole('checkbox').check();
  await page.getByRole('button', { name: 'Discard selected…' }).click();
  const discard = page.getByRole('dialog').getByRole('button', { name: 'Discard', exact: true });
  assert.ok(await discard.isDisabled());
  await page.getByLabel('Reason (required)').fill('made by a test');
  await discard.click();
  await row.waitFor({ state: 'detached' });
});

test('a stream is validated until there is a verdict, and that is in the audit', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Validation');
  const row = page.locator('tr[data-row="users elasticsearch"]');
  await row.getByRole('button', { name: 'Validate users…' }).click();
  const dialog = page.getByRole('dialog');
  assert.ok(await dialog.getByLabel('Compare only').isChecked());
  assert.deepEqual(await barriers(page), []);
  await dialog.getByRole('button', { name: 'Validate', exact: true }).click();
  await page.getByRole('region', { name: 'Results' }).getByText('users is to be validated').waitFor();
  await dialog.waitFor({ state: 'detached' });
  // Not the verdict of a round before: this one was asked for by an operator, and is over.
  await row.locator('[title="Asked for by operator"]').getByText('Done', { exact: true }).waitFor();
  await row.locator('td[data-name="Verdict"]').getByText(/^(Equal|Different)$/).waitFor();

  await row.getByRole('link', { name: 'users' }).click();
  await page.getByRole('heading', { name: 'What differs in users' }).waitFor();
  await page.getByLabel('Class').selectOption('extra');
  await page.getByText('No difference matches').waitFor();
  assert.ok(page.url().endsWith('#/validation?stream=users&target=elasticsearch&class=extra'));

  await openTab(page, 'Audit');
  const audited = page.getByRole('row').filter({ hasText: 'users' });
  await audited.getByRole('cell', { name: 'validate', exact: true }).first().waitFor();
  assert.deepEqual(faults, []);
});

test('both sides of a difference are shown with all their digits, and it is repaired', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  // No index of a stack that works differs from its source, so these answers are made up.
  const asked = await differences(page);
  await openTab(page, 'Validation');
  await page.getByRole('link', { name: 'users', exact: true }).click();
  const table = page.getByRole('region', { name: /^Documents of users that differ/ });
  await table.getByRole('button', { name: '7', exact: true }).click();
  const drawer = page.getByRole('dialog');
  const lines = drawer.getByRole('table', { name: 'Both documents, line by line' });
  await lines.getByText('9007199254740993').waitFor();
  assert.equal(await lines.locator('del').textContent(), '  "number": 9007199254740993');
  assert.equal(await lines.locator('ins').textContent(), '  "number": 9007199254740992');
  assert.deepEqual(await barriers(page), []);
  await screenshot(page, 'difference');
  await page.keyboard.press('Escape');
  await drawer.waitFor({ state: 'detached' });

  await table.getByRole('checkbox', { name: 'Select 7' }).check();
  await table.getByRole('checkbox', { name: 'Select 8' }).check();
  await page.getByText('2 selected, 1 to repair').waitFor();
  await page.getByRole('button', { name: 'Repair these' }).click();
  await page.getByRole('region', { name: 'Results' }).getByText('1 document to be repaired').waitFor();
  await page.getByRole('button', { name: 'Repair all…' }).click();
  await page.getByRole('dialog').getByText('12 documents').waitFor();
  await page.getByRole('dialog').getByRole('button', { name: 'Repair all', exact: true }).click();
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  assert.deepEqual(asked, [
    { stream: 'users', target: 'elasticsearch', repair: true, keys: ['7'] },
    { stream: 'users', target: 'elasticsearch', repair: true, confirmed: true },
  ]);
  assert.deepEqual(faults, []);
});

test('what differs in ClickHouse is beside what differs in the index, and is repaired there', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  const asked = await differences(page);
  await openTab(page, 'Validation');
  await page.getByRole('link', { name: 'users in ClickHouse' }).click();
  await page.getByRole('heading', { name: 'What differs in users in ClickHouse' }).waitFor();
  assert.ok(page.url().endsWith('#/validation?stream=users&target=clickhouse'));
  await screenshot(page, 'validation-targets');
  await page.getByRole('button', { name: '7', exact: true }).click();
  const drawer = page.getByRole('dialog');
  await drawer.getByText('this page does not read ClickHouse').waitFor();
  await drawer.getByText('9007199254740993').waitFor();
  assert.deepEqual(await barriers(page), []);
  await screenshot(page, 'difference-clickhouse');
  await drawer.getByRole('button', { name: 'Repair', exact: true }).click();
  await page.getByRole('region', { name: 'Results' }).getByText('1 document to be repaired').waitFor();
  await page.keyboard.press('Escape');
  await drawer.waitFor({ state: 'detached' });
  await page.getByRole('button', { name: 'Validate users in ClickHouse…' }).click();
  await drawer.getByText('Its source and its table are compared, document by document.').waitFor();
  await screenshot(page, 'validate-clickhouse');
  await drawer.getByRole('button', { name: 'Validate', exact: true }).click();
  await drawer.waitFor({ state: 'detached' });
  assert.deepEqual(asked, [
    { stream: 'users', target: 'clickhouse', repair: true, keys: ['7'] },
    { stream: 'users', target: 'clickhouse' },
  ]);
  assert.deepEqual(faults, []);
});

test('what changed since a checkpoint is replayed, and that is in the audit', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  const headers = { authorization: `Bearer ${required('ADMIN_TOKEN')}` };
  // There is one each minute.
  await page.waitForFunction(
    async (headers) => {
      const { checkpoints } = await (await fetch('/api/checkpoints', { headers })).json();
      return checkpoints.some((/** @type {{ subscription: string, at: string | null }} */ one) => {
        return one.subscription === 'elasticsearch' && one.at !== null;
      });
    },
    headers,
    { polling: 1000 },
  );

  await page.getByRole('button', { name: 'Replay to elasticsearch' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Since').selectOption({ index: 1 });
  await dialog.getByText(/of the log (is|are) looked at/).waitFor();
  assert.deepEqual(await barriers(page), []);
  await screenshot(page, 'replay');
  await dialog.getByRole('button', { name: 'Replay' }).click();
  await page.getByRole('region', { name: 'Results' }).getByText('elasticsearch is replayed').waitFor();
  await openTab(page, 'Audit');
  await page.getByRole('cell', { name: 'replay', exact: true }).first().waitFor();
  assert.deepEqual(faults, []);
});

test('a generation takes over, goes back or is given up by the page', async () => {
  const { page, faults } = await open(browser);
  const asked = await generations(page);
  await signIn(page, required('ADMIN_TOKEN'));
  const panel = page.getByRole('region', { name: 'Generations', exact: true });
  const row = (/** @type {string} */ state) => panel.locator('tr[data-row]').filter({ hasText: state });
  await row('building').getByText(/4.711 keys/).waitFor();
  await row('building').getByText('it is being filled').waitFor();
  assert.equal(await row('live').getByRole('button').count(), 0);
  assert.deepEqual(await barriers(page), []);
  await panel.scrollIntoViewIfNeeded();
  await screenshot(page, 'generations');
  for (const [state, name] of /** @type {const} */ ([['building', 'Take over'], ['building', 'Give up'], ['kept', 'Go back']])) {
    await row(state).getByRole('button', { name, exact: true }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name, exact: true }).click();
    await dialog.waitFor({ state: 'detached' });
  }
  await page.getByRole('region', { name: 'Results' }).getByText('Generation 1 of users becomes the live one again').waitFor();
  assert.deepEqual(asked, [['takeover', {}], ['abort', null], ['rollback', null]]);
  assert.deepEqual(faults, []);
});

test('who is connected, each bucket, and both sides of a conflict are shown where a stream goes to clients', async () => {
  const { page, faults } = await open(browser);
  const told = await clients(page);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Clients');
  for (const [name, value] of Object.entries({ Connected: /^1.204$/, Buckets: /^3/, 'Behind by': /^1.5.s/, Conflicts: /^17/ })) {
    await page.locator('.tiles > div').filter({ has: page.locator('dt', { hasText: name }) }).locator('dd').first().getByText(value).waitFor();
  }
  const buckets = page.getByRole('region', { name: 'Buckets', exact: true }).last();
  await buckets.getByText('tenant-2').waitFor();
  await page.getByText('2 buckets', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Load more' }).click();
  await buckets.getByText('a "b" [c]').waitFor();
  await page.getByText('All 3 buckets').waitFor();

  await page.getByRole('region', { name: 'Conflicts, newest first' }).getByRole('button', { name: '42', exact: true }).click();
  const drawer = page.getByRole('dialog');
  await drawer.getByText('2 fields differ.').waitFor();
  const marked = await drawer.locator('mark').allTextContents();
  assert.deepEqual(marked, ['"Solaris, again"', '"Solaris"', '9007199254740993', '9007199254740992']);
  await drawer.getByRole('row', { name: /^language/ }).getByText('same').waitFor();
  await drawer.getByRole('row', { name: /^id/ }).getByText('not sent').waitFor();
  assert.deepEqual(await barriers(page), []);
  await screenshot(page, 'conflict');
  await page.keyboard.press('Escape');
  await drawer.waitFor({ state: 'detached' });

  await page.getByLabel('Stream').selectOption('notes');
  await page.getByText('There was no conflict').waitFor();
  assert.ok(page.url().endsWith('#/clients?stream=notes'));
  assert.ok(told.asked.includes('/api/sync/buckets?limit=50&stream=notes'), told.asked.join(' '));
  assert.deepEqual(faults, []);
});

test('there is no tab of clients where no stream goes to them', async () => {
  const { page, faults } = await open(browser);
  await clients(page, []);
  const answered = page.waitForResponse((response) => new URL(response.url()).pathname === '/api/sync');
  await signIn(page, required('ADMIN_TOKEN'));
  await (await answered).finished();
  const tabs = page.getByRole('navigation', { name: 'Main' }).getByRole('link');
  assert.deepEqual(
    (await tabs.allTextContents()).filter((name) => name.startsWith('Clients')),
    [],
  );
  await page.evaluate(() => window.location.assign('#/clients'));
  await page.getByText('No stream goes to clients').waitFor();
  assert.deepEqual(faults, []);
});

test('a round of the ingest is asked for, and that is in the audit', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Ingest');
  await page.getByRole('row', { name: /^All rounds/ }).waitFor();
  await page.getByRole('button', { name: 'Run now' }).click();
  const result = page.getByRole('region', { name: 'Results' });
  await result.getByText('A round is asked for').waitFor();
  await openTab(page, 'Audit');
  await page.getByRole('cell', { name: 'ingest', exact: true }).first().waitFor();
  assert.deepEqual(faults, []);
});

test('a rejected profile is looked at, with what is wrong and as it came', async () => {
  await reject();
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await openTab(page, 'Ingest');
  const row = page.getByRole('region', { name: 'Rejects, newest first' }).locator('tr[data-row]').first();
  const reason = (await row.locator('td[data-name="Reason"]').textContent()) ?? '';
  await page.getByLabel('Reason').selectOption(reason);
  await page.waitForFunction(
    (reason) => [...document.querySelectorAll('td[data-name="Reason"]')].every((cell) => cell.textContent === reason),
    reason,
  );
  assert.ok(page.url().endsWith(`#/ingest?reason=${reason}`));
  await row.getByRole('button').click();
  const drawer = page.getByRole('dialog');
  await drawer.getByRole('heading', { name: reason, exact: true }).waitFor();
  assert.notEqual(await drawer.locator('.reason').textContent(), '');
  assert.notEqual(await drawer.locator('.document').textContent(), '');
  assert.deepEqual(await barriers(page), []);
  await screenshot(page, 'reject');
  assert.deepEqual(faults, []);
});

test('a reader sees every page, and can change nothing', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_READ_TOKEN'));
  await page.getByText('You are signed in as a reader').waitFor();
  const pause = page.getByRole('button', { name: /^Pause / });
  await pause.first().waitFor();
  for (const button of await pause.all()) {
    assert.ok(await button.isDisabled());
  }
  for (const [tab, names] of Object.entries({
    'Dead letters': ['Redrive selected', 'Discard selected…', 'Redrive all…'],
    Validation: ['Validate all…'],
    Ingest: ['Run now'],
  })) {
    await openTab(page, tab);
    for (const name of names) {
      const button = page.getByRole('button', { name });
      assert.ok(await button.isDisabled(), name);
      assert.equal(await button.getAttribute('title'), "This needs the operator's token");
    }
  }
  assert.deepEqual(faults, []);
});

for (const [name, look] of Object.entries({
  light: { colorScheme: /** @type {const} */ ('light') },
  dark: { colorScheme: /** @type {const} */ ('dark') },
  narrow: { width: 400 },
  'narrow-dark': { colorScheme: /** @type {const} */ ('dark'), width: 400 },
})) {
  test(`nothing bars the way on any tab, ${name}`, async () => {
    const { page, faults } = await open(browser, look);
    assert.deepEqual(await barriers(page), []);
    await screenshot(page, `sign-in-${name}`);
    // The stack that is looked at may have none.
    await clients(page);
    await signIn(page, required('ADMIN_TOKEN'));
    for (const tab of TABS) {
      await openTab(page, tab);
      assert.deepEqual(await barriers(page), [], tab);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(overflow <= 0, `${tab} is ${overflow} pixels too wide.`);
      await screenshot(page, `${tab.toLowerCase().replace(' ', '-')}-${name}`);
    }
    assert.deepEqual(faults, []);
  });
}

test('the documentation shows the API, and tries it with the token of whoever is signed in', async () => {
  const { page, faults } = await open(browser);
  await signIn(page, required('ADMIN_TOKEN'));
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
  await page.goto(new URL('/docs', required('ADMIN_URL')).href);
  await page.getByText('/api/session').first().click();
  await page.getByRole('button', { name: 'Execute' }).click();
  await page.getByText('"actor"').first().waitFor();
  assert.deepEqual(faults, []);
});
