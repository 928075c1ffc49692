/**
 * Has the page told that the index of `users` has a generation that is being built and one that is kept, whatever it has. What it asks for
 * is not sent.
 * @param {import('playwright-core').Page} page
 * @returns {Promise<unknown[]>} what it asked for: the path's last part, and the body
 */
export async function generations(page) {
  /** @type {unknown[]} */
  const asked = [];
  const answer = (/** @type {unknown} */ body, status = 200) => ({ status, contentType: 'application/json', body: JSON.stringify(body) });
  await page.route('**/api/streams', (route) => route.fulfill(answer({ streams: [STREAM, { ...STREAM, name: 'users.g3' }] })));
  await page.route('**/api/streams/users/*', (route) => {
    if (route.request().method() !== 'POST') {
      return route.fulfill(answer({ generations: GENERATIONS }));
    }
    asked.push([new URL(route.request().url()).pathname.split('/').at(-1), route.request().postDataJSON()]);
    return route.fulfill(answer({ generations: GENERATIONS }, 202));
  });
  return asked;
}

const STREAM = {
  name: 'users',
  subscription: 'elasticsearch',
  source: 'demo.user_documents',
  key: 'id',
  index: 'users.g2-0123456789abcdef',
  is_current: true,
  tables: ['demo.users'],
  untracked_tables: [],
  source_count: 10_000,
  source_count_is_estimate: false,
  index_count: 10_000,
  waiting: 0,
  expansions: 0,
  last_error: null,
  problem: null,
};

const BUILDING = {
  number: 3,
  state: 'building',
  index: 'users.g3-0123456789abcdef',
  is_filled: false,
  is_fine: false,
  logged: 4711,
  letters: 2,
  begun_at: '2026-03-01T12:00:00.000Z',
  keep_until: null,
  waits: 'it is being filled: 4711 keys were read so far',
};

const GENERATIONS = [
  BUILDING,
  { ...BUILDING, number: 2, state: 'live', index: 'users.g2-0123456789abcdef', is_filled: true, letters: 0, begun_at: null, waits: null },
  { ...BUILDING, number: 1, state: 'kept', index: 'users-0123456789abcdef', is_filled: true, letters: 0, keep_until: '2026-03-02T12:00:00.000Z', waits: null },
];
