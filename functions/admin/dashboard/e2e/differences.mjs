/**
 * Has the page told that the index of `users` differs from its source, and its table of ClickHouse does, whatever they are. What it asks
 * for is not sent.
 * @param {import('playwright-core').Page} page
 * @returns {Promise<unknown[]>} what it asked for
 */
export async function differences(page) {
  /** @type {unknown[]} */
  const asked = [];
  const answer = (/** @type {string} */ body, status = 200) => ({ status, contentType: 'application/json', body });
  await page.route('**/api/validation', (route) => {
    if (route.request().method() !== 'POST') {
      return route.fulfill(answer(JSON.stringify({ streams: [TABLE, STREAM] })));
    }
    const body = route.request().postDataJSON();
    asked.push(body);
    return route.fulfill(answer(JSON.stringify({ streams: [STREAM], wanted: body.keys?.length ?? 12 }), 202));
  });
  await page.route('**/api/validation/users?*', (route) => {
    const asked = new URL(route.request().url()).searchParams;
    const row = asked.get('target') === 'clickhouse' ? TABLE : STREAM;
    return route.fulfill(answer(list(row, asked.get('documents') !== 'false')));
  });
  return asked;
}

const STREAM = {
  stream: 'users',
  subscription: 'elasticsearch',
  state: 'done',
  repair: false,
  dry_run: false,
  by: 'scrub',
  checked: 100,
  walked: 100,
  printed_differently: 0,
  repaired: 0,
  verdict: 'different',
  problem: null,
  begun_at: '2026-03-01T12:00:00.000Z',
  updated_at: '2026-03-01T12:01:00.000Z',
  verdict_at: '2026-03-01T12:01:00.000Z',
  classes: [
    { class: 'stale', state: 'confirmed', count: 12, keys: null },
    { class: 'extra', state: 'candidate', count: 1, keys: null },
  ],
};

const TABLE = { ...STREAM, subscription: 'clickhouse' };

/** As text: as a number of JavaScript neither would be what it is. */
function list(/** @type {typeof STREAM} */ row, /** @type {boolean} */ isRead) {
  const there = row === TABLE ? 'null, "target_version": null' : '{"id": 7, "number": 9007199254740992}, "target_version": 12';
  const sides = isRead
    ? `"source": {"id": 7, "number": 9007199254740993}, "target": ${there}`
    : '"source": null, "target": null, "target_version": null';
  const problem = isRead && row === TABLE ? '"this page does not read ClickHouse; look there, in the stream\'s view"' : null;
  const difference = (/** @type {string} */ key, /** @type {string} */ name, /** @type {string} */ state) =>
    `{"key": "${key}", "class": "${name}", "state": "${state}", "found_at": "2026-03-01T12:00:30.000Z", ` +
    `"source_problem": null, "target_problem": ${problem}, ${sides}}`;
  const rows = [difference('7', 'stale', 'confirmed'), difference('8', 'extra', 'candidate')];
  return `{"stream": ${JSON.stringify(row)}, "differences": [${rows}], "is_sample": false}`;
}
