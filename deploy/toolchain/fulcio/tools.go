//go:build tools

// Package fulcio pins the certificate authority Fulcio; it is built for tests, never imported.
package fulcio

import _ "github.com/sigstore/fulcio"
