// Reporter of mode "node": tells the supervisor, on a descriptor of its own, what came of each test. Standard input brings the
// token of every line, the names of the planted tests, and where the tree is.
import { readFileSync, writeSync } from 'node:fs';
import { relative } from 'node:path';

const { token, planted, out, work } = JSON.parse(readFileSync(0, 'utf8'));

function send(event, fields = {}) {
  let data = Buffer.from(`${token} ${JSON.stringify({ event, ...fields })}\n`);
  while (data.length) {
    try {
      data = data.subarray(writeSync(out, data));
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
    }
  }
}

const text = (value) => String(value ?? '').slice(0, 4000);
const reasonOf = (data) => text(data.details?.error?.cause?.stack ?? data.details?.error?.message);

class File {
  constructor() {
    this.names = [];
    this.seen = new Map();
    this.caught = new Set();
    this.broken = '';
    this.passed = false;
  }

  idOf(path, data) {
    this.names.length = data.nesting;
    const name = [...this.names.map((one) => one ?? '?'), data.name].join(' > ');
    const count = (this.seen.get(name) ?? 0) + 1;
    this.seen.set(name, count);
    return `${path}::${name}${count > 1 ? ` #${count}` : ''}`;
  }
}

function outcomeOf(data, passed) {
  if (data.skip !== undefined && data.skip !== false) return { outcome: 'skipped', xfail: false };
  if (data.todo !== undefined && data.todo !== false) {
    return passed ? { outcome: 'passed', xfail: true } : { outcome: 'skipped', xfail: true };
  }
  return { outcome: passed ? 'passed' : 'failed', xfail: false };
}

export default async function* report(source) {
  let file = new File();
  send('node', { version: process.versions.node });
  for await (const { type, data } of source) {
    if (type === 'test:complete' && data.file && data.nesting === 0 && data.name === relative(work, data.file)) {
      const lost = planted.filter((name) => !file.caught.has(name));
      const timeout = data.details?.error?.failureType === 'testTimeoutFailure';
      if (timeout || file.broken || lost.length) {
        const why = timeout ? reasonOf(data) : file.broken || `${data.name} ended before its tests had reported`;
        send('file', { id: data.name, outcome: 'error', detail: why });
      }
      else send('planted_in_file', { count: planted.length });
      if (file.passed) send('tampered', { file: data.name });
      file = new File();
    } else if (type === 'test:diagnostic' && data.file) {
      if (/^Error: /.test(data.message)) file.broken = text(data.message);
    } else if (type === 'test:start') {
      file.names[data.nesting] = data.name;
    } else if (type === 'test:pass' || type === 'test:fail') {
      if (planted.includes(data.name) && data.nesting === 0) {
        if (type === 'test:pass') file.passed = true;
        if (type === 'test:fail' && data.details?.error?.failureType === 'testCodeFailure') file.caught.add(data.name);
        continue;
      }
      const path = data.file ? relative(work, data.file) : '?';
      if (data.details?.type === 'suite' || data.name === path) continue;
      const id = file.idOf(path, data);
      send('start', { id });
      send('phase', { id, when: 'call', sub: false, detail: reasonOf(data), ...outcomeOf(data, type === 'test:pass') });
      send('done', { id, micros: Math.round((data.details?.duration_ms ?? 0) * 1000) });
    }
    if (type === 'test:summary' && !data.file) send('end');
  }
}
