import SwaggerUI from 'swagger-ui-dist/swagger-ui-es-bundle';
import 'swagger-ui-dist/swagger-ui.css';
import './styles/docs.css';
import { applyTheme, currentTheme } from './theme';
import { TOKEN_KEY } from './token';

applyTheme();
document.documentElement.classList.toggle('dark-mode', currentTheme() === 'dark');

const page = SwaggerUI({
  url: '/openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  // Its validator is another host, which gets no say about this page, and no look at it.
  validatorUrl: null,
  // Whoever signed in on this tab need not do it again.
  onComplete() {
    const token = sessionStorage.getItem(TOKEN_KEY);
    if (token) {
      page.preauthorizeApiKey('token', token);
    }
  },
});
