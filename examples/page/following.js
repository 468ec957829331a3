// Several people followed through a video, as kinlmr.video.following follows them, which says why things are as they are;
// tests/apps/test_page.py holds both together. Keypoints are COCO's 17 rows [x, y, confidence], in pixels.

const SURE = 0.4, NEW = 0.15, LEAST = 0.4, STAY = 0.3, SAME = 0.2, REACH = 0.4, TOUCH = 0.08, APART = 0.2, JUMP = 0.15;
const OVER = 0.1, FIRST = 3, LOST = 3, CLOSE = 2, BEGIN = 30, AWAY = 30, BLIND = 10, FULL = 30, HOLD = 1.3, LEARN = 0.3;
const THICK = 0.06, GREY = 128;
const HIPS = [11, 12], SHOULDERS = [5, 6];
// prettier-ignore
const BONES = [[3, 4], [0, 5], [0, 6], [5, 6], [5, 7], [7, 9], [6, 8], [8, 10], [5, 11], [6, 12], [5, 12], [6, 11],
  [11, 12], [11, 13], [13, 15], [12, 14], [14, 16]];

const sum = (numbers) => numbers.reduce((total, x) => total + x, 0);
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const sureness = (points) => sum(points.map((p) => p[2])) / points.length;

/**
 * A detector that remembers: the frames of one video go in, one by one.
 *
 * look(frame) promises everybody in it, roughly, as [keypoints, score]; close(frame, window) the keypoints of the person
 * in a window's middle. people: so many are followed at most. every: frames from one look to the next, if all is quiet.
 */
export class Follower {
  constructor(look, close, people = 4, every = 6) {
    Object.assign(this, { look, close, people, every, persons: [], frame: 0, looked: -1e9, next: 0 });
  }

  /** -> those who are seen: { person, keypoints }. A person has an `id` of their own, and `seen`, a number of frames. */
  async detect(frame) {
    for (const person of this.persons) person.keypoints = moved(person.keypoints, person.motion);
    const followed = this.chosen(), answers = [];
    for (const person of followed) answers.push(await this.answer(frame, person));
    let looks = this.persons.map(() => null), newcomers = [];
    const due = this.due() || doubtful(followed, answers);
    if (due) {
      [looks, newcomers] = this.matched(await this.look(frame));
      this.looked = this.frame;
    }
    const seenBy = new Map(this.persons.map((person, k) => [person, looks[k]]));
    const rough = followed.map((person) => seenBy.get(person)), here = this.persons.filter(({ away }) => !away);
    followed.forEach((person, k) => {
      const others = here.filter((other) => other !== person && near(person, other));
      if (due && others.some((other) => !seenBy.get(other))) rough[k] = null; // it took two for one
      if (others.length) answers[k] = checked(answers[k], rough[k], person.keypoints, due);
    });
    settle(followed, answers, rough);
    followed.forEach((person, k) => update(person, answers[k], true));
    for (const person of this.persons) if (!followed.includes(person)) update(person, seenBy.get(person), due);
    const taken = followed.map((person, k) => ({ person, keypoints: answers[k] })).filter(({ keypoints }) => keypoints);
    for (const points of newcomers) {
      if (taken.some(({ keypoints }) => apart(points, keypoints) <= SAME)) continue;
      const person = { id: this.next++, keypoints: points, window: aboutHips(points), size: size(points) };
      Object.assign(person, { motion: [0, 0], seen: 1, away: 0, followed: false });
      this.persons.push(person);
      if (followed.length >= this.people) continue;
      const keypoints = await this.welcome(frame, person, taken);
      if (keypoints) followed.push(person), taken.push({ person, keypoints });
    }
    this.persons = this.persons.filter(({ away, seen }) => away <= (seen > BLIND ? AWAY : FIRST));
    this.frame += 1;
    return taken;
  }

  /** Those who are followed in this frame: of the largest claims. */
  chosen() {
    const order = [...this.persons].sort((one, two) => claim(two) - claim(one));
    order.forEach((person, k) => (person.followed = k < this.people));
    return order.slice(0, this.people);
  }

  /** What a close look sees of a person, if it is that person. */
  async answer(frame, person) {
    const covers = (other) => other !== person && !other.away && apart(other.keypoints, person.keypoints) < SAME;
    if (person.away > BLIND || (person.away && this.persons.some(covers))) return null;
    let points = await this.close(frame, person.window);
    const there = this.persons.filter((other) => other !== person && !other.away).map(({ keypoints }) => keypoints);
    const others = there.filter((other) => touching(points, other));
    if (others.length) {
      const again = await this.close(covered(frame, others), person.window);
      const less = sum(others.map((other) => touching(again, other) - touching(points, other))) < 0;
      if (less && sureness(again) >= sureness(points)) points = again;
    }
    return fits(points, person.keypoints, person.seen > BLIND ? STAY : LEAST) ? points : null;
  }

  /** Whether to look for who is there, in this frame. */
  due() {
    const since = this.frame - this.looked, here = this.persons.filter(({ away }) => !away);
    if (!here.length) return since >= 1;
    if (this.frame < BEGIN) return since >= Math.min(FIRST, this.every);
    if (here.length < this.persons.length) return since >= Math.min(LOST, this.every);
    if (here.some((one, k) => here.slice(0, k).some((other) => near(one, other)))) return since >= Math.min(CLOSE, this.every);
    return since >= this.every;
  }

  /** A look's answer for each person, or null; and the newcomers, the surest first. */
  matched(found) {
    const pairs = [], answers = this.persons.map(() => null), taken = new Set();
    this.persons.forEach((person, k) =>
      found.forEach(([points], m) => {
        const error = apart(points, person.keypoints);
        if (error < REACH * (1 + person.away / BLIND)) pairs.push([error, k, m]);
      }),
    );
    pairs.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
    for (const [, k, m] of pairs) {
      if (answers[k] || taken.has(m)) continue;
      answers[k] = found[m][0];
      taken.add(m);
    }
    const rest = found.filter(([, score], m) => !taken.has(m) && score > NEW).sort((one, two) => two[1] - one[1]);
    return [answers, rest.map(([points]) => points)];
  }

  /** A newcomer is looked at closely, twice, the second time in a better window; null, and away, if not seen. */
  async welcome(frame, person, others) {
    let points = null;
    for (let k = 0; k < 2; k++) {
      points = await this.close(frame, person.window);
      if (!fits(points, person.keypoints, LEAST) || others.some(({ keypoints }) => apart(points, keypoints) < SAME)) {
        person.away = 1;
        return null;
      }
      Object.assign(person, { keypoints: points, window: aboutHips(points) });
    }
    Object.assign(person, { size: size(points), followed: true });
    return points;
  }
}

/** A person with what was seen in this frame, in place; missed: whether null means that nobody was there. */
function update(person, points, missed) {
  const { window, motion } = person;
  if (!points) {
    person.away += missed || person.away > 0 ? 1 : 0;
    person.motion = motion.map((x) => 0.9 * x);
    person.window = { ...window, x: window.x + person.motion[0], y: window.y + person.motion[1] };
    return;
  }
  const weight = points.map((p, k) => p[2] * person.keypoints[k][2] + 1e-9), total = sum(weight);
  const rate = Math.max(LEARN, 1 / (person.seen + 1)) / (1 + person.away);
  const missedBy = (axis) => sum(points.map((p, k) => weight[k] * (p[axis] - person.keypoints[k][axis]))) / total;
  person.motion = motion.map((x, axis) => x + rate * missedBy(axis));
  person.window = steadied(window, aboutHips(points), person.motion, person.away > 0);
  Object.assign(person, { keypoints: points, seen: person.seen + 1, away: 0 });
  person.size += LEARN * (size(points) - person.size);
}

// ---------------------------------------------------------------------------------------------------------- who is whom

const claim = (person) => person.size * Math.min(person.seen / FULL, 1) * (person.followed ? HOLD : 1);

/** Two who overlap stay two: answers that are another's become the look's, or null, in place. */
function settle(people, answers, looks) {
  const expected = people.map(({ keypoints }) => keypoints);
  for (let j = 0; j < people.length; j++) {
    for (let i = 0; i < j; i++) {
      const one = answers[i], two = answers[j];
      if (!one || !two) continue;
      if (apart(one, two) < SAME && apart(expected[i], expected[j]) > apart(one, two)) {
        const [loser, kept] = apart(one, expected[i]) > apart(two, expected[j]) ? [i, two] : [j, one];
        answers[loser] = looks[loser] && apart(looks[loser], kept) >= SAME ? looks[loser] : null;
      } else {
        [answers[i], answers[j]] = limbs(one, expected[i], looks[i], two, expected[j], looks[j]);
      }
    }
  }
  answers.forEach((answer, k) => {
    if (answer || !looks[k] || !(sureness(looks[k]) > LEAST)) return;
    if (answers.every((other) => !other || apart(looks[k], other) > SAME)) answers[k] = looks[k];
  });
}

/** Whether somebody who was just there is not seen closely, or two close looks see one person. */
function doubtful(people, answers) {
  const some = answers.filter((answer) => answer);
  const twice = some.some((one, k) => some.slice(0, k).some((two) => apart(one, two) < SAME));
  return twice || people.some((person, k) => !answers[k] && !person.away);
}

/** A close look's answer about one in a crowd, as far as the look, or what was expected, agrees. */
function checked(answer, look, expected, due) {
  if (!answer || (due && !look)) return answer;
  if (look && apart(answer, look) > SAME) return look;
  const other = look ?? expected, reach = JUMP * size(expected);
  return answer.map((p, k) => {
    if (!(distance(p, other[k]) > reach && other[k][2] > p[2] / 2)) return p;
    return [other[k][0], other[k][1], other[k][2] * (look ? 1 : 0.3)];
  });
}

/** Both answers, where a point in one position belongs to whom it was expected of. */
function limbs(one, expected, look, two, awaited, other) {
  const reach = Math.min(size(expected), size(awaited));
  const both = one.map((p, k) => distance(p, two[k]) < TOUCH * reach && distance(expected[k], awaited[k]) > APART * reach);
  const mine = one.map((p, k) => distance(p, expected[k]) <= distance(two[k], awaited[k]));
  return [
    mended(one, both.map((x, k) => x && !mine[k]), expected, look, two),
    mended(two, both.map((x, k) => x && mine[k]), awaited, other, one),
  ];
}

/** Keypoints whose wrong ones are the look's, or, where that is wrong too, as expected, and not sure. */
function mended(points, wrong, expected, look, other) {
  return points.map((p, k) => {
    if (!wrong[k]) return p;
    if (look && distance(look[k], other[k]) > TOUCH * size(expected)) return look[k];
    return [expected[k][0], expected[k][1], 0.1 * p[2]];
  });
}

/** Whether a close look sees somebody, who may be whom it is about. */
const fits = (points, expected, least) => sureness(points) >= least && apart(points, expected) < REACH;

/** Whether two people's boxes overlap by more than a little. */
function near(one, other) {
  const [low, high] = box(one.keypoints), [lower, higher] = box(other.keypoints);
  const area = (a, b) => (b[0] - a[0]) * (b[1] - a[1]);
  const common = [0, 1].map((axis) => Math.max(Math.min(high[axis], higher[axis]) - Math.max(low[axis], lower[axis]), 0));
  return common[0] * common[1] > OVER * Math.min(area(low, high), area(lower, higher));
}

// ------------------------------------------------------------------------------------------------------------- geometry

/** The mean distance of points, in units of the smaller person's size; points count by both confidences. */
function apart(one, other) {
  const weight = one.map((p, k) => p[2] * other[k][2] + 1e-6);
  return sum(weight.map((w, k) => w * distance(one[k], other[k]))) / sum(weight) / Math.min(size(one), size(other));
}

/** The corners about the points that are sure; about all, if these are few. */
function box(points) {
  const sure = points.filter((p) => p[2] > SURE), used = sure.length > 3 ? sure : points;
  return [Math.min, Math.max].map((most) => [0, 1].map((axis) => most(...used.map((p) => p[axis]))));
}

function size(points) {
  const [low, high] = box(points);
  return Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
}

/** How many of somebody's points lie on the same ones of another's. */
function touching(points, other) {
  const reach = TOUCH * Math.min(size(points), size(other));
  return points.filter((p, k) => distance(p, other[k]) < reach).length;
}

/** A frame { width, height, data } with people painted over, along their limbs. */
export function covered({ width, height, data }, people) {
  data = data.slice();
  for (const points of people) {
    const reach = THICK * size(points);
    for (const [start, end] of BONES.map(([a, b]) => [points[a], points[b]])) {
      const [left, top] = [0, 1].map((k) => Math.floor(Math.max(Math.min(start[k], end[k]) - reach, 0)));
      const [right, bottom] = [width, height].map((most, k) => Math.min(Math.max(start[k], end[k]) + reach + 1, most));
      const along = [end[0] - start[0], end[1] - start[1]], length = Math.max(along[0] ** 2 + along[1] ** 2, 1e-6);
      for (let y = top; y < Math.floor(bottom); y++) {
        for (let x = left; x < Math.floor(right); x++) {
          const share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length, on = Math.min(Math.max(share, 0), 1);
          if (Math.hypot(x - start[0] - on * along[0], y - start[1] - on * along[1]) < reach)
            data.fill(GREY, 4 * (y * width + x), 4 * (y * width + x) + 3);
        }
      }
    }
  }
  return { width, height, data };
}

const moved = (points, motion) => points.map(([x, y, sure]) => [x + motion[0], y + motion[1], sure]);

/** MoveNet's square: about the hips, 1.9 trunks or 1.2 bodies to each side. */
export function aboutHips(points) {
  const surely = (k) => points[k][2] > SURE, all = !(HIPS.some(surely) && SHOULDERS.some(surely));
  const used = (some) => some.filter((k) => all || surely(k)).map((k) => points[k]), hips = used(HIPS);
  const centre = [0, 1].map((axis) => sum(hips.map((p) => p[axis])) / hips.length);
  const reach = (some) => Math.max(...some.map((p) => Math.max(Math.abs(p[0] - centre[0]), Math.abs(p[1] - centre[1]))));
  const side = 2 * Math.max(1.9 * reach(used([...SHOULDERS, ...HIPS])), 1.2 * reach(used([...points.keys()])), 4);
  return { x: centre[0], y: centre[1], width: side, height: side };
}

/** A window that follows: it moves with the person, grows soon and shrinks late. fresh: of one who was away. */
function steadied(before, wanted, motion, fresh) {
  if (fresh) return wanted;
  const grow = wanted.width > before.width ? 0.3 : 0.1;
  const toward = (was, want, rate) => was + rate * (want - was);
  return {
    x: toward(before.x + motion[0], wanted.x, LEARN),
    y: toward(before.y + motion[1], wanted.y, LEARN),
    width: toward(before.width, wanted.width, grow),
    height: toward(before.height, wanted.height, grow),
  };
}
