"use strict";
// Linear algebra in float64. A vector is a Float64Array, a matrix an array of rows.

/** a b, of their first n numbers; four sums side by side, as no processor likes to wait for the last addition. */
function dot(a, b, n = a.length) {
  let s = 0, t = 0, u = 0, v = 0, i = 0;
  for (; i + 3 < n; i += 4) {
    s += a[i] * b[i];
    t += a[i + 1] * b[i + 1];
    u += a[i + 2] * b[i + 2];
    v += a[i + 3] * b[i + 3];
  }
  for (; i < n; i++) s += a[i] * b[i];
  return s + t + u + v;
}

/** a += s b, in place, in their first n numbers. */
function addTo(a, s, b, n = a.length) {
  for (let i = 0; i < n; i++) a[i] += s * b[i];
  return a;
}

/**
 * A B^T: the products of all rows of a with all rows of b.
 *
 * Two rows by four at a time, as eight sums then need six numbers from memory where `dot` would load sixteen. The four
 * rows of b lie interleaved in `four`. Where fewer are left, sums of zeros go to places behind a row's end, which do not
 * exist: an array of numbers passes over them.
 */
function product(a, b) {
  const out = a.map(() => zeros(b.length)), d = a[0].length;
  for (let j = 0; j < b.length; j += 4) {
    const four = zeros(4 * d);
    b.slice(j, j + 4).forEach((row, l) => { for (let k = 0; k < d; k++) four[4 * k + l] = row[k]; });
    for (let i = 0; i < a.length; i += 2) {
      const last = Math.min(i + 1, a.length - 1), [x, y] = [a[i], a[last]];
      let s = 0, t = 0, u = 0, v = 0, S = 0, T = 0, U = 0, V = 0;
      for (let k = 0, l = 0; k < d; k++, l += 4) {
        const f = x[k], g = y[k], b0 = four[l], b1 = four[l + 1], b2 = four[l + 2], b3 = four[l + 3];
        s += f * b0; t += f * b1; u += f * b2; v += f * b3;
        S += g * b0; T += g * b1; U += g * b2; V += g * b3;
      }
      const upper = out[i], lower = out[last];
      lower[j] = S; lower[j + 1] = T; lower[j + 2] = U; lower[j + 3] = V;
      upper[j] = s; upper[j + 1] = t; upper[j + 2] = u; upper[j + 3] = v;
    }
  }
  return out;
}

/** A^T. */
function transpose(rows) {
  const columns = Array.from(rows[0], () => zeros(rows.length));
  rows.forEach((row, i) => columns.forEach((column, j) => { column[i] = row[j]; }));
  return columns;
}

const norm = (a) => Math.sqrt(dot(a, a));
const scale = (s, a) => a.map((x) => s * x);
const minus = (a, b) => a.map((x, i) => x - b[i]);
const plus = (a, b) => a.map((x, i) => x + b[i]);
const normalize = (a) => scale(1 / norm(a), a);
const zeros = (n) => new Float64Array(n);
const average = (numbers) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
const argmax = (numbers) => numbers.reduce((best, x, i) => (x > numbers[best] ? i : best), 0);

/** The sum of weights[i] rows[i]. */
function combine(weights, rows) {
  return rows.reduce((sum, row, i) => addTo(sum, weights[i], row), zeros(rows[0].length));
}

const meanOf = (rows) => scale(1 / rows.length, combine(rows.map(() => 1), rows));

/** a += s X^T X for the rows x of X, in place. It is symmetric: the lower half is all that is computed and used. */
function addMoment(a, s, rows) {
  for (const x of rows) {
    for (let i = 0; i < x.length; i++) {
      const row = a[i], factor = s * x[i];
      for (let j = 0; j <= i; j++) row[j] += factor * x[j];
    }
  }
  return a;
}

/** s I, n x n. */
function diagonal(n, s) {
  return Array.from({ length: n }, (_, i) => { const row = zeros(n); row[i] = s; return row; });
}

/** L with L L^T = a, lower triangular, for a symmetric and positive definite a, of which the lower half is read. */
function cholesky(a) {
  const lower = [];
  for (let i = 0; i < a.length; i++) {
    const row = zeros(a.length);
    for (let j = 0; j <= i; j++) {
      const other = j < i ? lower[j] : row;
      const sum = a[i][j] - dot(row, other, j);
      row[j] = j < i ? sum / other[j] : Math.sqrt(sum);
    }
    lower.push(row);
  }
  return lower;
}

/** x with L L^T x = b: forwards through L, backwards through L^T. */
function solve(lower, b) {
  const x = b.slice();
  for (let i = 0; i < x.length; i++) x[i] = (x[i] - dot(lower[i], x, i)) / lower[i][i];
  for (let i = x.length - 1; i >= 0; i--) {
    const row = lower[i], value = (x[i] /= row[i]);
    for (let k = 0; k < i; k++) x[k] -= row[k] * value;
  }
  return x;
}

/**
 * Eigenvalues of a symmetric matrix, descending, and its eigenvectors, one a row.
 *
 * Mirrors make the matrix tridiagonal (Householder), turns make it diagonal (implicit QL, with Wilkinson's shift):
 * Golub and Van Loan, Matrix Computations, chapter 8. About 5 n^3 products, where Jacobi's method needs some 40.
 */
function eigen(matrix) {
  const n = matrix.length, a = matrix.map((row) => row.slice()), vectors = diagonal(n, 1);
  for (let k = n - 1; k > 1; k--) { // H = I - 2 v v^T turns row k left of the diagonal into (0, ... 0, length)
    const v = a[k].slice(0, k), length = norm(v);
    if (!length) continue;
    v[k - 1] += v[k - 1] < 0 ? -length : length;
    const unit = normalize(v), p = zeros(k + 1), moved = zeros(n);
    for (let i = 0; i <= k; i++) p[i] = dot(a[i], unit, k);
    addTo(p, -dot(unit, p), unit, k);
    for (let i = 0; i <= k; i++) { // H a H = a - 2 (v p^T + p v^T), p = a v - (v^T a v) v
      if (i < k) addTo(a[i], -2 * unit[i], p, k + 1);
      addTo(a[i], -2 * p[i], unit, k);
    }
    for (let i = 0; i < k; i++) addTo(moved, unit[i], vectors[i]);
    for (let i = 0; i < k; i++) addTo(vectors[i], -2 * unit[i], moved);
  }
  const d = a.map((row, i) => row[i]), e = a.map((row, i) => row[i + 1] || 0); // the diagonal, and beside it
  for (let l = 0; l < n; l++) {
    for (let m = end(d, e, l); m > l; m = end(d, e, l)) { // d[l] stands alone when m = l
      const half = (d[l + 1] - d[l]) / (2 * e[l]), root = Math.sqrt(half * half + 1);
      let g = d[m] - d[l] + e[l] / (half + (half < 0 ? -root : root)), s = 1, c = 1, p = 0, i = m - 1;
      for (; i >= l; i--) {
        const f = s * e[i], b = c * e[i], r = Math.sqrt(f * f + g * g);
        e[i + 1] = r;
        if (!r) break;
        [s, c] = [f / r, g / r];
        const q = d[i + 1] - p, t = (d[i] - q) * s + 2 * c * b;
        p = s * t;
        d[i + 1] = q + p;
        g = c * t - b;
        turn(vectors[i], vectors[i + 1], c, s);
      }
      if (i >= l) d[i + 1] -= p;
      else [d[l], e[l]] = [d[l] - p, g];
      e[m] = 0;
    }
  }
  const order = d.map((_, i) => i).sort((i, j) => d[j] - d[i]);
  return { values: order.map((i) => d[i]), vectors: order.map((i) => vectors[i]) };
}

/** The end of the block that begins at l: the first m with e[m] at rounding level. */
function end(d, e, l) {
  let m = l;
  while (m + 1 < d.length && Math.abs(e[m]) > 2e-16 * (Math.abs(d[m]) + Math.abs(d[m + 1]))) m++;
  return m;
}

/** Turn two rows in their plane: (a, b) -> (c a - s b, s a + c b), in place. */
function turn(a, b, c, s) {
  for (let k = 0; k < a.length; k++) {
    const x = a[k], y = b[k];
    a[k] = c * x - s * y;
    b[k] = s * x + c * y;
  }
}
