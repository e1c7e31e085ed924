/** How often things happened. */
export const noCounts = {
  claims: 0,
  recoveries: 0,
  starts: 0,
  seals: 0,
  declines: 0,
  releases: 0,
  demotions: 0,
  moves: 0,
  givenUp: 0,
  commands: 0,
  disarms: 0,
  quarantines: 0,
  failed: 0,
};
