"use strict";
// The six methods, formula by formula as in clipnull/methods. C classes, K domains, vectors of d numbers.
//
// What is fixed for the vocabulary comes from Python (data.js): texts and prototypes of all C x K cells, names of
// domains, the duals u_c, the settings. What depends on the request is solved here: bases, detectors, readings.
// An edit is { left, right } of r vectors each, z -> z - sum_j (z left_j) right_j, and perhaps a threshold or a gate.

/** What no request changes: `kinds` are texts and prototypes, each [class][domain]. */
function makeCells({ texts, prototypes, domains, duals, origin }) {
  const kinds = [texts, prototypes], C = texts.length, K = texts[0].length;
  const classifier = texts.map((row) => normalize(meanOf(row))); // w_c
  const middle = meanOf(classifier);
  const styles = domains.map((name, k) => normalize(plus(name, normalize(meanOf(prototypes.map((row) => row[k]))))));
  return {
    kinds, C, K, duals, origin, classifier, styles,
    leads: classifier.map((w) => minus(w, middle)), // z (w_c - mean w): the lead of class c in z
    means: kinds.map((kind) => meanOf(kind.flat())),
  };
}

const not = (mask) => mask.map((row) => row.map((x) => !x));
/** Which domains are forgotten whole, (K,). */
const wholeOf = (mask) => mask[0].map((_, k) => mask.every((row) => row[k]));
/** Where a class is forgotten that keeps some domain: `mask` without the domains that go whole. */
function partOf(mask) {
  const whole = wholeOf(mask);
  return mask.map((row) => row.map((x, k) => x && !whole[k]));
}
/** The classes that have a cell in `mask`. */
const chosen = (mask) => mask.flatMap((row, c) => (row.some(Boolean) ? [c] : []));
/** The embeddings of the cells in `mask`, of one kind. */
const inMask = (kind, mask) => kind.flatMap((row, c) => row.filter((_, k) => mask[c][k]));
const rowsOf = (cells, mask) => cells.kinds.flatMap((kind) => inMask(kind, mask));
/** The same, each minus the mean over all cells of its kind: what sets a cell apart. */
const centered = (cells, mask) =>
  cells.kinds.flatMap((kind, i) => inMask(kind, mask).map((x) => minus(x, cells.means[i])));

/** U: the leading singular directions that hold the share `energy` of the rows' sum of squares. */
function basis(rows, energy) {
  const { values, vectors } = eigen(product(rows, rows)); // of X X^T
  const all = values.reduce((sum, x) => sum + x, 0);
  const u = [];
  for (let held = 0; held < energy * all - 1e-12 * all && values[u.length] > 1e-12 * values[0]; ) {
    const i = u.length;
    u.push(scale(1 / Math.sqrt(values[i]), combine(vectors[i], rows))); // X^T v / sigma
    held += values[i];
  }
  return u;
}

/** Of prototypes, but no less than a fourth of that of texts: what a reading is divided by. */
const contrast = ([ofTexts, ofPrototypes]) => Math.max(ofPrototypes, DATA.faint * ofTexts);

/** Reads the lead of class c, as 1 more on its own cells than on the average one. */
function classReading(cells, c) {
  const r = cells.leads[c];
  return scale(1 / contrast(cells.kinds.map((x, i) => dot(minus(meanOf(x[c]), cells.means[i]), r))), r);
}

/** Reads the domains `row` (K,) against the others, as 2 more on their cells; zero if `row` is all domains. */
function domainReading(cells, row) {
  const { styles, origin: m } = cells;
  if (row.every(Boolean)) return zeros(styles[0].length);
  const apart = (vectors) => minus(meanOf(vectors.filter((_, k) => row[k])), meanOf(vectors.filter((_, k) => !row[k])));
  const r = apart(styles);
  const seen = cells.kinds.map((x) => dot(apart(styles.map((_, k) => meanOf(x.map((ofClass) => ofClass[k])))), r));
  const read = scale(2 / contrast(seen), r);
  return addTo(read, -dot(read, m) / Math.max(dot(m, m), 1e-12), m); // what it reads from the origin is taken out
}

/** The mean lead of class c in its prototypes of the domains `row`. */
const leadOf = (cells, c, row) =>
  Math.max(0, average(cells.kinds[1][c].filter((_, k) => row[k]).map((x) => dot(x, cells.leads[c]))));

/** The class that is least expected in the domains `whole`, and the mean lead of the best class over it. */
function decoyOf(cells, whole) {
  const pictures = inMask(cells.kinds[1], cells.kinds[1].map(() => whole));
  const scores = pictures.map((x) => cells.classifier.map((w) => dot(x, w)));
  const decoy = argmax(cells.classifier.map((_, c) => -average(scores.map((row) => row[c]))));
  return [decoy, average(scores.map((row) => Math.max(...row) - row[decoy]))];
}

/** M = X^T X / n over the n rows of the cells in `mask`, times `weight`, added to `matrix`. */
function addCells(matrix, weight, cells, mask) {
  const rows = rowsOf(cells, mask);
  return addMoment(matrix, weight / rows.length, rows);
}

/** About 1 on the domains that go whole, about 0 on what is kept: v ~ (M_whole + M_kept + rho I)^-1 m, m v = 1. */
function detector(cells, mask, rho) {
  const whole = mask.map(() => wholeOf(mask)), m = meanOf(rowsOf(cells, whole));
  const a = addCells(addCells(diagonal(m.length, rho), 1, cells, whole), 1, cells, not(mask));
  const v = solve(cholesky(a), m);
  return scale(1 / dot(m, v), v);
}

const METHODS = {
  /** P = I - alpha U U^T, U a basis of the centred rows of what must go. */
  nullspace(cells, mask, { alpha, energy }) {
    const u = basis(centered(cells, mask), energy);
    return { left: u.map((x) => scale(alpha, x)), right: u };
  },

  /** The same of what is left of these rows after a ridge regression on the kept ones: x S, S = tau (M + tau I)^-1. */
  residual(cells, mask, { alpha, energy, tau }) {
    const rows = centered(cells, mask), lower = cholesky(addCells(diagonal(rows[0].length, tau), 1, cells, not(mask)));
    const u = basis(rows.map((x) => solve(lower, scale(tau, x))), energy);
    return { left: u.map((x) => scale(alpha, x)), right: u };
  },

  /** P = I - lambda / n X_F^T X_F A^-1, A = I + lambda X_F^T X_F / n + mu M. */
  ridge(cells, mask, { forgetting, keeping }) {
    const rows = centered(cells, mask), weight = forgetting / rows.length;
    const lower = cholesky(addMoment(addCells(diagonal(rows[0].length, 1), keeping, cells, not(mask)), weight, rows));
    return { left: rows.map((x) => scale(weight, x)), right: rows.map((x) => solve(lower, x)) };
  },

  /** v_c reads class and domain, r_c = strength lead_c u_c lowers class c; domains that go whole raise a decoy. */
  oblique(cells, mask, { strength, class_share, domain_share, rho }) {
    const left = [], right = [], part = partOf(mask), whole = wholeOf(mask);
    for (const c of chosen(part)) {
      const read = classReading(cells, c);
      left.push(mask[c].every(Boolean) ? read
        : plus(scale(class_share, read), scale(domain_share, domainReading(cells, part[c]))));
      right.push(scale(strength * leadOf(cells, c, part[c]), cells.duals[c]));
    }
    if (whole.some(Boolean)) {
      const [decoy, lead] = decoyOf(cells, whole);
      left.push(detector(cells, mask, rho));
      right.push(scale(-2 * strength * lead, cells.duals[decoy]));
    }
    return { left, right };
  },

  /** z -> z - sum_c relu(z v_c - o_c |z|) r_c: one hidden unit a class. */
  neuron(cells, mask, { strength, threshold, silence, domain_share }) {
    const left = [], right = [], least = [], part = partOf(mask), whole = wholeOf(mask);
    for (const c of chosen(part)) {
      const read = classReading(cells, c), everywhere = mask[c].every(Boolean);
      left.push(everywhere ? read : plus(read, scale(domain_share, domainReading(cells, part[c]))));
      right.push(scale(strength * leadOf(cells, c, part[c]), cells.duals[c]));
      least.push(everywhere ? silence : threshold * (1 + domain_share));
    }
    if (whole.some(Boolean)) {
      const [decoy, lead] = decoyOf(cells, whole);
      left.push(detector(cells, mask, 0.02));
      right.push(scale(-4 * lead, cells.duals[decoy]));
      least.push(threshold / 2);
    }
    return { left, right, threshold: least };
  },

  /** Takes away the lead of class c where the picture is of a forgotten domain and the lead stands out. */
  gated(cells, mask, { strength, deviations, offset }) {
    const part = partOf(mask), classes = chosen(part);
    return {
      left: classes.map((c) => scale(strength, cells.leads[c])),
      right: classes.map((c) => cells.duals[c]),
      gate: {
        domains: cells.styles,
        offset: cells.styles.map((s, k) => offset * mask.some((row) => row[k]) - dot(s, cells.origin)),
        open: cells.styles.map((_, k) => classes.map((c) => part[c][k])),
        replaced: wholeOf(mask),
        average: normalize(meanOf(inMask(cells.kinds[0], not(mask)))),
        least: (z) => // so many standard deviations of the leads of all classes, whose mean is 0
          strength * deviations * Math.sqrt(cells.leads.reduce((sum, l) => sum + dot(z, l) ** 2, 0) / (cells.C - 1)),
      },
    };
  },
};

/** The domain that a gate sees in z. */
function domainOf({ domains, offset }, z) {
  const length = norm(z);
  return argmax(domains.map((s, k) => dot(z, s) / length + offset[k]));
}

/** What an edit takes of each vector of `right`, where its vectors of `left` read `read` in z, seen in domain k. */
function amounts({ threshold, gate }, z, read, k) {
  if (threshold) {
    const length = norm(z);
    return read.map((x, j) => Math.max(0, x - threshold[j] * length));
  }
  if (!gate) return read;
  const least = Math.max(0, gate.least(z));
  return read.map((x, j) => (gate.open[k][j] && x > least ? x : 0));
}

/** What an edit makes of embeddings. */
function transform(edit, pictures) {
  const { left, right, gate } = edit, seen = pictures.map((z) => gate && domainOf(gate, z));
  let out = pictures;
  if (left.length) {
    const taken = product(pictures, left).map((read, i) => amounts(edit, pictures[i], read, seen[i]));
    const changes = product(taken, transpose(right));
    out = pictures.map((z, i) => minus(z, changes[i]));
  }
  return gate ? out.map((z, i) => (gate.replaced[seen[i]] ? gate.average : z)) : out;
}

/** The class of the text with the largest cosine, for each picture; texts are unit rows, the length of z is no matter. */
const classify = (pictures, texts) => product(pictures, texts).map(argmax);

/** The places of the pictures, those first whose cosine to `text` is largest. */
function retrieve(pictures, text) {
  const cosines = pictures.map((z) => dot(z, text) / norm(z));
  return cosines.map((_, i) => i).sort((i, j) => cosines[j] - cosines[i]);
}

/** How many pictures of each cell are named right, [class][domain]. */
function countRight(answers, { classes, domains }, C, K) {
  const right = Array.from({ length: C }, () => new Array(K).fill(0));
  answers.forEach((answer, i) => { right[classes[i]][domains[i]] += answer === classes[i]; });
  return right;
}

/** What an edit did, as `clipnull.evaluate.rates`: means over cells that hold pictures, drops in percentage points. */
function ratesOf(before, after, mask) {
  const C = mask.length, whole = wholeOf(mask);
  const sameClass = mask.map((row) => row.some(Boolean)), sameDomain = whole.map((_, k) => mask.some((row) => row[k]));
  const mean = (matrix, wanted) => {
    const values = matrix.flatMap((row, c) => row.filter((x, k) => !Number.isNaN(x) && wanted(c, k)));
    return values.length ? average(values) : NaN;
  };
  const drop = before.map((row, c) => row.map((x, k) => 100 * (x - after[c][k])));
  const forgotten = (c, k) => mask[c][k], kept = (c, k) => !mask[c][k];
  const wholeClasses = mask.every((row) => row.every(Boolean) || !row.some(Boolean));
  const wholeDomains = whole.every((all, k) => all === sameDomain[k]);
  const selective = !wholeClasses && !wholeDomains;
  const a = mean(before, forgotten), left = mean(after, forgotten), floor = wholeDomains ? 1 / C : 0;
  const losses = drop.flatMap((row, c) => row.filter((x, k) => kept(c, k) && !Number.isNaN(x)));
  return {
    forgetting_rate: a > floor ? Math.min(1, (a - left) / (a - floor)) : NaN,
    retain_drop: mean(drop, kept),
    sibling_class_drop: selective ? mean(drop, (c, k) => kept(c, k) && sameClass[c]) : NaN,
    sibling_domain_drop: selective ? mean(drop, (c, k) => kept(c, k) && sameDomain[k]) : NaN,
    worst_cell_drop: losses.length ? Math.max(...losses) : NaN,
  };
}
