import SwaggerUI from 'swagger-ui-dist/swagger-ui-es-bundle';
import 'swagger-ui-dist/swagger-ui.css';
import './styles/docs.css';
import { applyTheme, currentTheme } from './theme';

applyTheme();
document.documentElement.classList.toggle('dark-mode', currentTheme() === 'dark');

SwaggerUI({
  url: '/openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  // Its validator is another host, which gets no say about this page, and no look at it.
  validatorUrl: null,
});
