declare module 'swagger-ui-dist/swagger-ui-es-bundle' {
  interface Page {
    preauthorizeApiKey(scheme: string, token: string): void;
  }
  const SwaggerUI: (options: Record<string, unknown>) => Page;
  export default SwaggerUI;
}
