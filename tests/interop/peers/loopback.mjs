// Preloaded into a server that listens on every address of the machine: it gets 127.0.0.1 only.

import { Server } from 'node:net';

const { listen } = Server.prototype;
Server.prototype.listen = function here(port, ...more) {
  return typeof port === 'object' ? listen.call(this, port, ...more) : listen.call(this, { port: Number(port), host: '127.0.0.1' }, more.at(-1));
};
