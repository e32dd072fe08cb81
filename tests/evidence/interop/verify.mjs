// Sigstore's own JavaScript verifier over many bundles: reads cases from standard input, prints one verdict for each.
//
// A case: {bundle, key?, root?, identity?, issuer?}: paths of the bundle, of a PEM public key (profile K) or of a trusted root
// (profile S). A verdict: {ok: true, payload} with the signed bytes in base64, or {ok: false, code}.
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { bundleFromJSON } from "@sigstore/bundle";
import { TrustedRoot } from "@sigstore/protobuf-specs";
import { toSignedEntity, toTrustMaterial, Verifier } from "@sigstore/verify";

const NO_ROOT = {
  mediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
  tlogs: [], certificateAuthorities: [], ctlogs: [], timestampAuthorities: [],
};

function verdict(test) {
  try {
    const bundle = bundleFromJSON(JSON.parse(readFileSync(test.bundle, "utf8")));
    const root = TrustedRoot.fromJSON(test.root ? JSON.parse(readFileSync(test.root, "utf8")) : NO_ROOT);
    const key = test.key && { publicKey: createPublicKey(readFileSync(test.key)), validFor: () => true };
    const keyless = !key;
    const verifier = new Verifier(toTrustMaterial(root, () => key), {
      ctlogThreshold: keyless ? 1 : 0, tlogThreshold: keyless ? 1 : 0, timestampThreshold: keyless ? 1 : 0,
    });
    const policy = keyless ? { subjectAlternativeName: test.identity, extensions: { issuer: test.issuer } } : undefined;
    verifier.verify(toSignedEntity(bundle), policy);
    return { ok: true, payload: bundle.content.dsseEnvelope.payload.toString("base64") };
  } catch (error) {
    return { ok: false, code: error.code ?? error.name };
  }
}

console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(verdict)));
