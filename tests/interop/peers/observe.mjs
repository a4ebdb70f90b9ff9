// What the authorization server of the grants tells the test: what happened, in a journal
// without a secret; and every secret it handed out or was shown, in files of their own.

export function observe(provider, { record, remember, issued }) {
  const { issuer } = provider;
  const assertions = new WeakMap();

  const who = (ctx) => {
    const { client, params = {} } = ctx.oidc ?? {};
    return { issuer, client: client?.clientId, method: client?.clientAuthMethod, grant: params.grant_type };
  };

  provider.on('grant.success', (ctx) => {
    const { body } = ctx;
    const { params, client, entities } = ctx.oidc;
    for (const kind of ['access_token', 'refresh_token', 'id_token']) {
      if (body[kind] === undefined) continue;
      remember(body[kind]);
      issued({ client: client.clientId, kind, token: body[kind] });
    }
    record({
      event: 'token',
      ...who(ctx),
      ...assertions.get(ctx),
      resource: params.resource,
      asked: params.scope,
      scope: body.scope,
      type: body.token_type,
      pkce: params.code_verifier !== undefined,
      rotations: entities.RefreshToken?.rotations,
      mutual: ctx.socket.getPeerX509Certificate?.() !== undefined,
    });
  });
  provider.on('grant.error', (ctx, error) => {
    record({ event: 'token_error', ...who(ctx), error: error.message, detail: error.error_detail ?? error.error_description });
  });
  provider.on('authorization.success', (ctx) => {
    const { client, params } = ctx.oidc;
    record({ event: 'authorized', client: client?.clientId, pkce: params?.code_challenge_method, dpop: params?.dpop_jkt !== undefined });
  });
  provider.on('authorization_code.saved', (code) => remember(code.jti));
  provider.on('device_code.saved', (code) => remember(code.jti));
  provider.on('backchannel_authentication_request.saved', (request) => remember(request.jti));
  for (const kind of ['refresh_token', 'access_token', 'client_credentials']) {
    provider.on(`${kind}.destroyed`, (token) => record({ event: 'revoked', kind, client: token.clientId }));
  }
  provider.on('revocation.error', (ctx, error) => {
    record({ event: 'revocation_error', ...who(ctx), error: error.message });
  });
  provider.on('server_error', (_ctx, error) => console.error(error));

  return {
    /** A client's JWT, once it is known to be good. */
    assertion: (ctx, { aud, jti }, { alg, typ }) => {
      remember(ctx.oidc.params.client_assertion);
      assertions.set(ctx, { aud, jti, alg, typ });
    },
  };
}
