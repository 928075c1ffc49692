import react from '@vitejs/plugin-react';
import type { ProxyOptions } from 'vite';
import { defineConfig } from 'vitest/config';

const API = ['/api', '/health', '/metrics', '/ready', '/live', '/openapi.json'];

function proxyTo(adminUrl: string | undefined): Record<string, ProxyOptions> {
  if (!adminUrl) {
    throw new Error('ADMIN_URL is not set: it is the URL of the admin function, as http://127.0.0.1:9000');
  }
  const { protocol, host, hostname, port } = new URL(adminUrl);
  // The function is chosen by the host's name, yet not every resolver knows the names below .localhost as browsers do.
  const address = hostname.endsWith('.localhost') ? `127.0.0.1:${port || 80}` : host;
  const target = { target: `${protocol}//${address}`, headers: { host } };
  return {
    ...Object.fromEntries(API.map((path) => [path, target])),
    '^/docs$': { ...target, bypass: () => '/docs.html' },
  };
}

export default defineConfig(({ command, mode }) => ({
  plugins: [react()],
  server: command === 'serve' && mode !== 'test' ? { proxy: proxyTo(process.env.ADMIN_URL) } : {},
  // The end-to-end tests drive a deployed page: npm run e2e.
  test: { include: ['src/**/*.test.ts'] },
  build: {
    // The stylesheet says both themes with light-dark(), as these and all later browsers understand it.
    target: ['chrome123', 'firefox128', 'safari17.5'],
    // The policy of the page allows no data: URLs but images, and every browser above preloads modules.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // The documentation's viewer is one large library, which only /docs loads.
    chunkSizeWarningLimit: 600,
    rolldownOptions: { input: ['index.html', 'docs.html'] },
  },
}));
