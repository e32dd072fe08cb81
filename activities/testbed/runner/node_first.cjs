'use strict';
// First in the process of every test file, before any code of the tree. It tells the supervisor, on a descriptor and with a
// token that nothing else here has, what came of each test, and whether what decides that is still Node's own:
//   - what Node's runner says of a test must agree with what its function did, which is seen here as it runs;
//   - the runner's classes cannot be changed; assert and node:test can, as some suites do, and it is told at once;
//   - at the end everything that is built in is compared with what it was.
// Foreign code runs in this process: behind the loading of this file only functions and syntax are used that it cannot replace.
// Standard input brings the order. A process that a test starts finds neither it nor the variable, and does nothing here.
const BUILT_IN = `Object Function Array Number Boolean String Symbol Promise RegExp Error AggregateError EvalError RangeError
ReferenceError SyntaxError TypeError URIError JSON Math Intl ArrayBuffer Uint8Array Int8Array Uint16Array Int16Array Uint32Array
Int32Array Float32Array Float64Array Uint8ClampedArray BigUint64Array BigInt64Array DataView Map BigInt Set Iterator WeakMap WeakSet
WeakRef Proxy Reflect FinalizationRegistry Atomics SharedArrayBuffer Buffer URL URLSearchParams AbortController AbortSignal
EventTarget Event`.split(/\s+/);
const FUNCTIONS = 'eval parseFloat parseInt isNaN isFinite decodeURI encodeURI structuredClone queueMicrotask'.split(' ');
// Of others of the global object some are loaded by whoever looks at them first, and some are what tests like to fake: clocks,
// the console, the end of the process.

const ours = process.env.GEN4_FILE === '1';
delete process.env.GEN4_FILE;
if (ours) begin();

function begin() {
  const assert = require('node:assert');
  const hooks = require('node:async_hooks');
  const builtin = require('node:module');
  const inspector = require('node:inspector');
  const nodeTest = require('node:test');
  const v8 = require('node:v8');
  const { readFileSync, writeSync } = require('node:fs');
  const { fileURLToPath } = require('node:url');
  const { isPromise } = require('node:util/types');
  const { compileFunction } = require('node:vm');

  const { apply, defineProperty, getOwnPropertyDescriptor, ownKeys, preventExtensions } = Reflect;
  const { getOwnPropertyDescriptors } = Object;
  const free = (method) => apply(Function.prototype.bind, Function.prototype.call, [method]);
  const [weakGet, weakSet] = [free(WeakMap.prototype.get), free(WeakMap.prototype.set)];
  const [slice, startsWith, charCodeAt] = ['slice', 'startsWith', 'charCodeAt'].map((name) => free(String.prototype[name]));
  const [toJson, fromJson, toText, round] = [JSON.stringify, JSON.parse, String, Math.round];
  const { emit } = require('node:events').prototype;

  const { token, out, work, entry, planted, measure } = fromJson(readFileSync(0, 'utf8'));
  const filename = process.argv[1];

  // --- what is told ----------------------------------------------------------------------------------------------------

  /** `fields` holds primitives only and has no prototype, so no `toJSON` of anybody is asked. */
  function send(event, fields) {
    fields.event = event;
    writeSync(out, `${token} ${toJson(fields)}\n`);
  }

  function short(value) {
    try {
      return slice(toText(value ?? ''), 0, 4000);
    } catch {
      return 'no text';
    }
  }

  function reasonOf(details) {
    try {
      return short(details.error?.cause?.stack ?? details.error?.message);
    } catch {
      return 'no text';
    }
  }

  const told = { __proto__: null };
  function once(event, what) {
    if (told[event + what]) return;
    told[event + what] = true;
    send(event, { __proto__: null, what });
  }
  const tampered = (what) => once('tampered', what);
  const reached = (what) => once('reached', what);

  // --- what cannot be changed, or not quietly --------------------------------------------------------------------------

  /** Methods of `prototype` stay; an object of its kind may still get one of its own. `instead`: ours, in their place. */
  function protect(prototype, label, instead = { __proto__: null }) {
    const keys = ownKeys({ __proto__: null, ...getOwnPropertyDescriptors(prototype), ...instead });
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index];
      const found = getOwnPropertyDescriptor(prototype, key);
      const value = instead[key] ?? found.value;
      if (found?.get) defineProperty(prototype, key, { __proto__: null, configurable: false });
      if (key === 'constructor' || typeof value !== 'function') continue;
      const name = `${label}.${toText(key)}`;
      defineProperty(prototype, key, {
        __proto__: null, enumerable: false, configurable: false, get: () => value,
        set(own) {
          if (this === prototype) tampered(name);
          else defineProperty(this, key, { __proto__: null, value: own, writable: true, enumerable: true, configurable: true });
        },
      });
    }
    preventExtensions(prototype);
  }

  /** Functions of `holder` may be replaced, by an assignment only, and that is told. */
  function announce(holder, label, keys = ownKeys(holder)) {
    for (const key of keys) {
      const found = getOwnPropertyDescriptor(holder, key);
      if (!found?.configurable || typeof found.value !== 'function') continue;
      let value = found.value;
      const name = `${label}.${toText(key)}`;
      defineProperty(holder, key, {
        __proto__: null, enumerable: found.enumerable, configurable: false, get: () => value,
        set(next) {
          if (this !== holder) {
            defineProperty(this, key, { __proto__: null, value: next, writable: true, enumerable: true, configurable: true });
            return;
          }
          if (next !== value) reached(name);
          value = next;
        },
      });
    }
  }

  /** Whoever calls it is told of. */
  function listen(holder, label, key) {
    const real = holder[key];
    if (typeof real !== 'function') return;
    defineProperty(holder, key, {
      __proto__: null, ...getOwnPropertyDescriptor(holder, key),
      value: function () {
        reached(`${label}.${key}`);
        return apply(real, this, arguments);
      },
    });
  }

  const built = [];
  function watch(holder, label, keys = ownKeys(holder)) {
    for (const key of keys) {
      const found = getOwnPropertyDescriptor(holder, key) ?? {};
      const value = 'value' in found ? found.value : found.get;
      if (typeof value === 'function') built.push({ __proto__: null, holder, key, value, name: `${label}.${toText(key)}` });
    }
  }

  function changed() {
    let names = '';
    let count = 0;
    for (let index = 0; index < built.length; index++) {
      const { holder, key, value, name } = built[index];
      const now = getOwnPropertyDescriptor(holder, key);
      if (now !== undefined && (now.value === value || now.get === value)) continue;
      if (count++ < 5) names += names ? `, ${name}` : name;
    }
    return names;
  }

  // --- what Node's runner does with a test -----------------------------------------------------------------------------

  const known = new WeakMap();
  let [planting, hasPlanted, current, created, reported, ended] = [false, false, null, 0, 0, false];

  let root;
  const finding = hooks.createHook({ init: (_, type, __, resource) => { if (type === 'Test') root ??= resource; } }).enable();
  nodeTest.after(() => {}); // brings Node's runner up in this process
  finding.disable();
  process.env.NODE_TEST_CONTEXT = 'child-v8'; // for processes that a test starts, as below `node --test`

  const { createSubtest, report, run, runInAsyncScope } = root;
  const kinds = new WeakMap();

  function creating(Factory) {
    if (!weakGet(kinds, Factory)) {
      weakSet(kinds, Factory, true);
      if (Factory !== root.constructor) protect(Factory.prototype, Factory.name);
    }
    const forUs = planting;
    const test = apply(createSubtest, this, arguments);
    if (forUs) test.filteredByName = false;
    created++;
    weakSet(known, test, {
      __proto__: null, name: toText(test.name), parent: test.parent, fn: test.fn, suite: test.reportedType === 'suite', forUs,
      ran: false, failed: false, other: false, told: false,
    });
    return test;
  }

  /** Node runs the root when all tests of the file are through, or at the end where it has none: there ours come in. */
  function running() {
    if (this !== root || hasPlanted) return apply(run, this, arguments);
    return plant();
  }

  /** The text of the planted tests seems to be the file's. */
  async function plant() {
    hasPlanted = planting = true;
    let last;
    for (let index = 0; index < planted.length; index++) {
      const made = compileFunction(`return ${planted[index]}`, ['test', 'assert'], { __proto__: null, filename });
      last = made(nodeTest, assert);
    }
    planting = false;
    await last;
  }

  async function settle(about, promise) {
    try {
      await promise;
    } catch {
      about.failed = true;
    }
  }

  function calling(fn) {
    const about = weakGet(known, this);
    if (about === undefined) return apply(runInAsyncScope, this, arguments); // the body of a suite, or a hook
    about.ran = true;
    if (fn !== about.fn) about.other = true;
    if (!about.suite && !about.forUs) send('begin', { __proto__: null, id: idOf(about) });
    let result;
    try {
      result = apply(runInAsyncScope, this, arguments);
    } catch (error) {
      about.failed = true;
      throw error;
    }
    if (isPromise(result)) settle(about, result);
    return result;
  }

  function reporting() {
    const around = current;
    current = weakGet(known, this) ?? null;
    try {
      return apply(report, this, arguments);
    } finally {
      current = around;
    }
  }

  function idOf(about) {
    let name = about.name;
    for (let above = about.parent; above !== root; ) {
      const found = weakGet(known, above);
      if (found === undefined) {
        tampered('a test whose suite Node did not make');
        return `${entry}::${name}`;
      }
      name = `${found.name} > ${name}`;
      above = found.parent;
    }
    return `${entry}::${name}`;
  }

  const counts = { __proto__: null };
  function take(passed, data) {
    const about = current;
    const { details } = data;
    if (about === null) {
      if (passed) tampered('a test passed that was never reported');
      else send('broken', { __proto__: null, detail: reasonOf(details) }); // a hook behind the whole file
      return;
    }
    if (about.told) tampered('one test was reported twice');
    about.told = true;
    reported++;
    const skipped = data.skip !== undefined && data.skip !== false;
    const todo = (data.todo !== undefined && data.todo !== false) || (data.expectFailure !== undefined && data.expectFailure !== false);
    if (about.forUs) {
      const failed = !passed && details.error?.failureType === 'testCodeFailure';
      send('planted', { __proto__: null, name: about.name, failed, passed });
      return;
    }
    if (about.suite && (passed || details.error?.failureType === 'subtestsFailed')) return;
    const bare = idOf(about);
    const count = (counts[bare] = (counts[bare] ?? 0) + 1);
    const id = count > 1 ? `${bare} #${count}` : bare;
    if (passed && !skipped && !todo && !(about.ran && !about.failed && !about.other)) {
      tampered(`${id} passed, and its function did not`);
    }
    const us = round((details.duration_ms ?? 0) * 1000);
    const outcome = skipped || (todo && !passed) ? 'skipped' : passed ? 'passed' : 'failed';
    send('test', { __proto__: null, id, outcome, xfail: todo && !skipped, us, detail: passed ? '' : reasonOf(details) });
  }

  function emitting(type, data) {
    if (type === 'test:pass') take(true, data);
    else if (type === 'test:fail') take(false, data);
    else if (type === 'test:diagnostic' && startsWith(data.message, 'Error: ')) {
      send('broken', { __proto__: null, detail: short(data.message) });
    } else if (type === 'test:summary') finish('all');
    return apply(emit, this, arguments);
  }

  protect(root.constructor.prototype, 'Test', {
    __proto__: null, createSubtest: creating, report: reporting, run: running, runInAsyncScope: calling,
  });
  protect(root.hooks.after[0].constructor.prototype, 'TestHook');
  protect(root.reporter.constructor.prototype, 'TestsStream');
  protect(root.getRunArgs().ctx.constructor.prototype, 'TestContext');
  defineProperty(root.reporter, 'emit', { __proto__: null, value: emitting, writable: false, configurable: false });

  /** `exit`: somebody ended the process, which a hook behind the last test may do. */
  function finish(how) {
    if (ended) return;
    ended = true;
    if (coverage !== null) coverage();
    send('end', { __proto__: null, how, changed: changed() });
  }
  process.on('uncaughtExceptionMonitor', (error) => send('said', { __proto__: null, detail: short(error?.stack ?? error) }));
  process.on('exit', () => {
    if (created > 0 && created === reported) finish('exit');
  });

  // --- coverage --------------------------------------------------------------------------------------------------------

  const coverage = measure ? measuring() : null;

  function measuring() {
    const session = new inspector.Session();
    const { post } = session;
    session.connect();
    session.post('Profiler.enable');
    session.post('Profiler.startPreciseCoverage', { callCount: false, detailed: true });
    return () => {
      let result;
      apply(post, session, ['Profiler.takePreciseCoverage', (_, found) => { result = found?.result; }]);
      for (let index = 0; result !== undefined && index < result.length; index++) {
        const { url, functions } = result[index];
        if (!startsWith(url, 'file://')) continue;
        try {
          const path = fileURLToPath(url);
          if (startsWith(path, `${work}/`)) tellLines(path, functions);
        } catch {} // a name that is no path, or a file that is gone
      }
    };
  }

  /** V8 gives ranges of characters, inner ones behind those around them. A line counts as run where a part of it was. */
  function tellLines(path, functions) {
    let text = readFileSync(path, 'utf8');
    if (charCodeAt(text, 0) === 0xfeff) text = slice(text, 1);
    const starts = [];
    const ends = [];
    const hit = [];
    const { length } = text;
    let line = 0;
    for (let at = 0, start = -1, end = 0; at <= length; at++) {
      const code = at < length ? charCodeAt(text, at) : 10;
      if (code === 10) {
        starts[line] = start;
        ends[line] = end;
        hit[line++] = start >= 0;
        start = -1;
      } else if (code > 32) {
        if (start < 0) start = at;
        end = at + 1;
      }
    }
    for (let one = 0; one < functions.length; one++) {
      const { ranges } = functions[one];
      for (let two = 0; two < ranges.length; two++) {
        const { startOffset, endOffset, count } = ranges[two];
        for (let at = firstBehind(ends, startOffset); at < line && starts[at] < endOffset; at++) {
          if (starts[at] >= startOffset && ends[at] <= endOffset) hit[at] = count > 0;
        }
      }
    }
    let lines = '';
    for (let at = 0; at < line; at++) {
      if (!hit[at]) continue;
      let last = at;
      while (last + 1 < line && hit[last + 1]) last++;
      lines += `${lines ? ',' : ''}${at + 1}${last > at ? `-${last + 1}` : ''}`;
      at = last;
    }
    if (lines) send('lines', { __proto__: null, path: slice(path, work.length + 1), lines });
  }

  function firstBehind(ends, offset) {
    let low = 0;
    for (let high = ends.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (ends[middle] > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  // --- what is looked at -----------------------------------------------------------------------------------------------

  announce(nodeTest, 'test');
  for (const name of ['test', 'it', 'suite', 'describe']) announce(nodeTest[name], name);
  announce(assert, 'assert');
  announce(assert.strict, 'assert.strict');
  if (assert.Assert) announce(assert.Assert.prototype, 'Assert');
  announce(builtin, 'Module', ['_load', '_resolveFilename']);
  announce(builtin.prototype, 'Module', ['require', '_compile']);
  listen(nodeTest.assert, 'test.assert', 'register');
  for (const name of ['connect', 'connectToMainThread']) listen(inspector.Session.prototype, 'inspector.Session', name);
  listen(inspector, 'inspector', 'open');
  for (const name of ['getHeapSnapshot', 'writeHeapSnapshot', 'setFlagsFromString']) listen(v8, 'v8', name);
  for (const name of ['register', 'registerHooks']) listen(builtin, 'module', name);
  builtin.syncBuiltinESMExports();
  for (const name of BUILT_IN) {
    const value = globalThis[name];
    if (value === undefined) continue;
    watch(value, name);
    if (value.prototype) watch(value.prototype, `${name}.prototype`);
  }
  watch(globalThis, 'globalThis', [...BUILT_IN, ...FUNCTIONS]);
  watch(require('node:events').prototype, 'EventEmitter.prototype');
  watch(require('node:stream').Readable.prototype, 'Readable.prototype');
  watch(require('node:util'), 'util');
  watch(hooks.AsyncResource.prototype, 'AsyncResource.prototype');
  watch(builtin, 'Module');
  watch(builtin._extensions, 'Module._extensions');
  send('node', { __proto__: null, version: process.versions.node });
}
