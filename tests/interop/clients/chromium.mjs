// A page in Chromium, whose script asks the API. Chromium takes roots from a database of its own only, and the
// proxy's key from whoever drives it.
//
//   node chromium.mjs URL PROGRAM

import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

const [url, executablePath] = process.argv.slice(2);
const database = join(process.env.HOME, '.pki/nssdb');
mkdirSync(database, { recursive: true });
execFileSync('certutil', ['-d', `sql:${database}`, '-N', '--empty-password']);
execFileSync('certutil', ['-d', `sql:${database}`, '-A', '-t', 'C,,', '-n', 'cupbearer', '-i', process.env.CUPBEARER_CA]);

const { host, username, password } = new URL(process.env.HTTPS_PROXY);
const proxy = { server: `http://${host}`, username, password };
const browser = await chromium.launch({ executablePath, proxy, args: ['--no-sandbox'] });
const page = await browser.newPage();
await page.goto(url);
await page.waitForFunction(() => document.title === 'done', undefined, { timeout: 30_000 });
console.log('the page shows', await page.textContent('#cup'));
await browser.close();
