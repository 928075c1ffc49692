import 'openapi-explorer';
import './styles/docs.css';
import { applyTheme, currentTheme } from './theme';
import { TOKEN_KEY } from './token';

interface Explorer extends HTMLElement {
  setAuthenticationConfiguration(scheme: string, credentials: { token: string }): Promise<void>;
}

applyTheme();

// As in tokens.css, but plain: it mixes others from them.
const isDark = currentTheme() === 'dark';
const settings = {
  'spec-url': '/openapi.json',
  'use-path-in-nav-bar': 'true',
  'hide-server-selection': 'true',
  'bg-color': isDark ? '#0e1316' : '#ffffff',
  'text-color': isDark ? '#e3e9ec' : '#182025',
  'nav-bg-color': isDark ? '#151b1f' : '#f4f6f7',
  'nav-text-color': isDark ? '#e3e9ec' : '#182025',
  'nav-hover-bg-color': isDark ? '#1b2328' : '#dde2e5',
  'nav-hover-text-color': isDark ? '#e3e9ec' : '#182025',
  'primary-color': isDark ? '#68c5d2' : '#0d6270',
  'secondary-color': isDark ? '#68c5d2' : '#0d6270',
};

const page = document.createElement('openapi-explorer') as Explorer;
Object.entries(settings).forEach(([name, value]) => page.setAttribute(name, value));

// Whoever signed in on this tab need not do it again.
page.addEventListener('spec-loaded', () => {
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) {
    void page.setAuthenticationConfiguration('token', { token });
  }
});
document.getElementById('docs')?.append(page);
