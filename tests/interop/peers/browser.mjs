// A human and a browser: opens a page, logs in as USER, consents to everything, and follows
// wherever that leads: to a page without a form, or back to the program that waits for it.
//
//   node browser.mjs AUTHORITY.pem USER [--forge NAME=VALUE] URL
//
// `--forge` changes a parameter of the answer on its way back, as an attacker would.

import { request as httpRequest } from 'node:http';
import { once } from 'node:events';
import { parseArgs } from 'node:util';

import { asker } from './local.mjs';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { forge: { type: 'string' } } });
const [authority, user, start] = positionals;
const ask = asker(authority);

/** Cookies by name and path; all of them are of one host. */
const jar = new Map();

function keep(cookies = []) {
  for (const cookie of cookies) {
    const [pair, ...attributes] = cookie.split('; ');
    const [name, value] = pair.split(/=(.*)/s);
    const path = attributes.find((each) => /^path=/i.test(each))?.slice('path='.length) ?? '/';
    const gone = value === '' || attributes.some((each) => /^expires=Thu, 01 Jan 1970/i.test(each));
    if (gone) jar.delete(`${name} ${path}`);
    else jar.set(`${name} ${path}`, { path, pair });
  }
}

const cookiesFor = ({ pathname }) => [...jar.values()].filter(({ path }) => pathname.startsWith(path)).map(({ pair }) => pair).join('; ');

const unescape = (text) => text.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code)).replace(/&quot;/g, '"').replace(/&lt;/g, '<').replace(/&gt;/g, '>').replace(/&amp;/g, '&');
const attribute = (tag, name) => unescape(new RegExp(`\\s${name}="([^"]*)"`).exec(tag)?.[1] ?? '');

/** The first form of a page, filled in; `undefined` where there is none. */
function filled(page, url) {
  const [, tag, inside] = /(<form[^>]*>)([\s\S]*?)<\/form>/.exec(page) ?? [];
  if (tag === undefined) return undefined;
  const fields = new URLSearchParams();
  for (const [input] of inside.matchAll(/<input[^>]*>/g)) {
    const name = attribute(input, 'name');
    const typed = { login: user, password: 'any will do' }[name];
    fields.append(name, typed ?? attribute(input, 'value'));
  }
  return { url: new URL(attribute(tag, 'action'), url), body: fields.toString() };
}

/** Where the program waits: clear text, on this machine. */
async function comeBack(url) {
  if (values.forge) url.searchParams.set(...values.forge.split(/=(.*)/s));
  const asked = httpRequest(url).end();
  const [page] = await once(asked, 'response');
  page.resume();
  await once(page, 'end');
  console.log(`came back: ${page.statusCode}`);
}

let next = { url: new URL(start) };
for (let pages = 0; next !== undefined; pages += 1) {
  if (pages > 20) throw new Error('this leads nowhere');
  const { url, body } = next;
  if (url.protocol === 'http:') {
    await comeBack(url);
    break;
  }
  const headers = { cookie: cookiesFor(url), accept: 'text/html' };
  if (body !== undefined) headers['content-type'] = 'application/x-www-form-urlencoded';
  const page = await ask(url, { method: body === undefined ? 'GET' : 'POST', headers, body });
  keep(page.headers['set-cookie']);
  console.log(`${body === undefined ? 'GET' : 'POST'} ${url.pathname}: ${page.status}`);
  if (page.status >= 400) throw new Error(page.text);
  if (page.headers.location) next = { url: new URL(page.headers.location, url) };
  else next = filled(page.text, url);
}
