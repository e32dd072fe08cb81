// Behind all modules that the command loads first, and before the test file: loads it, then plants tests behind its own.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const plant = createRequire(import.meta.url)('./node_first.cjs');
if (typeof plant === 'function') {
  let failure;
  try {
    await import(pathToFileURL(process.argv[1]).href);
  } catch (error) {
    failure = error?.stack ?? `${error}`; // Node loads it again, and stops at it
  }
  plant(failure);
}
