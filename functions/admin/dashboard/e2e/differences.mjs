/**
 * Has the page told that the index of `users` differs from its source, whatever it is. What it asks for is not sent.
 * @param {import('playwright-core').Page} page
 * @returns {Promise<unknown[]>} what it asked for
 */
export async function differences(page) {
  /** @type {unknown[]} */
  const asked = [];
  const answer = (/** @type {string} */ body, status = 200) => ({ status, contentType: 'application/json', body });
  await page.route('**/api/validation', (route) => {
    if (route.request().method() !== 'POST') {
      return route.fulfill(answer(JSON.stringify({ streams: [STREAM] })));
    }
    const body = route.request().postDataJSON();
    asked.push(body);
    return route.fulfill(answer(JSON.stringify({ streams: [STREAM], wanted: body.keys?.length ?? 12 }), 202));
  });
  await page.route('**/api/validation/users?*', (route) => {
    const isRead = new URL(route.request().url()).searchParams.get('documents') !== 'false';
    return route.fulfill(answer(list(isRead)));
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

/** As text: as a number of JavaScript neither would be what it is. */
function list(/** @type {boolean} */ isRead) {
  const sides = isRead
    ? '"source": {"id": 7, "number": 9007199254740993}, "target": {"id": 7, "number": 9007199254740992}, "target_version": 12'
    : '"source": null, "target": null, "target_version": null';
  const difference = (/** @type {string} */ key, /** @type {string} */ name, /** @type {string} */ state) =>
    `{"key": "${key}", "class": "${name}", "state": "${state}", "found_at": "2026-03-01T12:00:30.000Z", ` +
    `"source_problem": null, "target_problem": null, ${sides}}`;
  const rows = [difference('7', 'stale', 'confirmed'), difference('8', 'extra', 'candidate')];
  return `{"stream": ${JSON.stringify(STREAM)}, "differences": [${rows}], "is_sample": false}`;
}
