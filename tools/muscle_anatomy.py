"""
Make ``sb3_pwm/envs/muscles.json``, the muscles of the muscle humanoid.

::

    python tools/muscle_anatomy.py

The table below places 76 human muscles of the right half on the bodies of dm_control's humanoid. The left half is the
mirror image. Two properties of each muscle are computed here, so that the environment need not compute them:

- The shortest and the longest length within the limits of the joints.
- The force. The muscles that turn a joint in one direction together have :data:`STRENGTH` times the torque of
  dm_control's motor, averaged over the range of the joint.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from dm_control.suite import humanoid
from numpy.typing import NDArray

from sb3_pwm.common.files import atomic_write
from sb3_pwm.envs import muscle_humanoid
from sb3_pwm.envs.muscle_humanoid import Bone, Muscle, Point, build_model, read_muscles

STRENGTH = 1.5
"""
Torque of the muscles relative to dm_control's motor.

It is above 1, because a muscle is weaker at other than its best length, and works against its antagonists.
"""

Position = tuple[float, float, float]

# The upper arm points forward, outward and down. These are its direction and two directions orthogonal to it, and the
# same for the forearm.
_ARM = np.array([1.0, -1.0, -1.0]) / np.sqrt(3.0)
_INWARD = np.array([0.0, 1.0, -1.0]) / np.sqrt(2.0)
_FORWARD = np.array([2.0, 1.0, 1.0]) / np.sqrt(6.0)
_FOREARM = np.array([1.0, 1.0, 1.0]) / np.sqrt(3.0)
_FOREARM_OUTWARD = np.array([2.0, -1.0, -1.0]) / np.sqrt(6.0)
_ELBOW_AXIS = (0.0, -1.0, 1.0)
_ELBOW_OUTWARD = np.array([0.0, -1.0, -1.0]) / np.sqrt(2.0)
_SHOULDER = np.array([0.0, -0.17, 0.06])
_ELBOW = np.array([0.18, -0.18, -0.18])


def _position(vector: NDArray[np.float64]) -> Position:
    """:return: Coordinates, rounded to 0.1 mm."""
    x, y, z = (round(float(value), 4) for value in vector)
    return x, y, z


_ORIGIN, _AXES = np.zeros(3), np.eye(3)  # x forward, y to the left, z up when the body stands
_ARM_AXES = np.stack([_ARM, _INWARD, _FORWARD])
_FOREARM_AXES = np.stack([_FOREARM, _ELBOW_AXIS / np.sqrt(2.0), _FOREARM_OUTWARD])
_FRAMES = {
    "t": ("torso", _ORIGIN, _AXES),
    "b": ("torso", _SHOULDER, _ARM_AXES),  # shoulder blade; axes: down the arm, inward, forward
    "w": ("lower_waist", _ORIGIN, _AXES),
    "p": ("pelvis", _ORIGIN, _AXES),
    "h": ("right_thigh", _ORIGIN, _AXES),
    "s": ("right_shin", _ORIGIN, _AXES),
    "f": ("right_foot", _ORIGIN, _AXES),
    "u": ("right_upper_arm", _ORIGIN, _ARM_AXES),
    "l": ("right_lower_arm", _ORIGIN, _FOREARM_AXES),  # axes: down the forearm, along the axis of the elbow, outward
}
"""Body, origin in meters and axes of each frame, by the letter in the table"""

BONES = (
    Bone("right_hip_bone", "pelvis", (0.0, -0.1, -0.04), 0.07),
    Bone("right_knee_bone", "right_thigh", (0.0, 0.01, -0.383), 0.045, (0.0, 1.0, 0.0)),
    Bone("right_shoulder_bone", "torso", _position(_SHOULDER), 0.035),
    Bone("right_elbow_bone", "right_upper_arm", _position(_ELBOW), 0.03, _ELBOW_AXIS),
)
"""Bones of the right half"""

_SIDES: dict[str, tuple[str, Position]] = {
    "behind-hip": ("right_hip_bone", (-0.06, -0.1, -0.12)),
    "before-knee": ("right_knee_bone", (0.08, 0.01, -0.383)),
    "outside-elbow": ("right_elbow_bone", _position(_ELBOW + 0.06 * _ELBOW_OUTWARD)),
    "over-shoulder": ("right_shoulder_bone", _position(_SHOULDER - 0.06 * _INWARD)),
    "under-shoulder": ("right_shoulder_bone", _position(_SHOULDER + 0.06 * _INWARD)),
    "before-shoulder": ("right_shoulder_bone", _position(_SHOULDER + 0.06 * _FORWARD)),
    "behind-shoulder": ("right_shoulder_bone", _position(_SHOULDER - 0.06 * _FORWARD)),
}
"""Bone and position of each side on which muscles pass a bone, by the name in the table"""

# One line per muscle: name; joint that it mainly turns, with - for the negative direction; weight among the muscles of
# the same joint and direction; path. A point of the path is a letter of _FRAMES and a position. Between two points, the
# name of a side in _SIDES says that the muscle slides over that bone.
RIGHT_HALF = """
# Trunk: bend forward (-y), backward (+y), to the right side (-x), turn (z)
rectus_abdominis_medial    -abdomen_y 2    t .08 -.03 -.05  w .075 -.03 0  p .09 -.03 .02
rectus_abdominis_lateral   -abdomen_y 2    t .075 -.065 -.05  w .07 -.06 0  p .085 -.06 .02
external_oblique_anterior  -abdomen_z 1.5  t .06 -.12 -.1  w .075 -.03 0  p .09 .01 .03
external_oblique_middle    -abdomen_z 1    t .04 -.13 -.1  w .07 -.045 0  p .085 -.03 .04
external_oblique_lateral   -abdomen_x 1.5  t .01 -.14 -.06  p .02 -.14 .04
internal_oblique_anterior  abdomen_z  1.5  t .08 -.01 -.08  w .06 -.065 0  p .05 -.13 .05
internal_oblique_middle    abdomen_z  1    t .075 -.04 -.1  w .05 -.07 .01  p .02 -.14 .05
internal_oblique_posterior -abdomen_x 1    t .03 -.12 -.1  p -.02 -.14 .05
transversus_abdominis      abdomen_z  0.7  t .08 .02 -.1  w .03 -.075 -.01
iliocostalis_thoracis      abdomen_y  1.2  t -.08 -.09 0  t -.085 -.075 -.13  w -.08 -.065 .02  p -.08 -.07 .03
iliocostalis_lumborum      abdomen_y  1.2  t -.08 -.08 -.12  w -.08 -.065 .02  p -.08 -.075 .03
longissimus_thoracis       abdomen_y  1.5  t -.085 -.05 .05  t -.09 -.04 -.13  w -.08 -.04 .02  p -.09 -.04 .02
longissimus_lumborum       abdomen_y  1.5  t -.085 -.045 -.12  w -.08 -.04 .02  p -.09 -.045 .02
multifidus_superior        abdomen_y  1    t -.09 -.01 -.13  w -.08 -.03 .02  p -.09 -.05 0
multifidus_inferior        -abdomen_x 0.6  w -.07 -.02 .03  p -.08 -.08 -.02
rotatores                  -abdomen_z 0.7  t -.08 .04 -.09  w -.06 -.07 -.01
quadratus_lumborum_upper   -abdomen_x 1    t -.04 -.12 -.1  p -.03 -.13 .06
quadratus_lumborum_lower   -abdomen_x 0.8  w -.02 -.075 .02  p -.02 -.13 .03
# Hip
psoas_major                -hip_y     1.2  w 0 -.045 .03  p .06 -.085 .05  h .02 .02 -.075
iliacus                    -hip_y     1.2  p .02 -.13 .08  p .06 -.105 .05  h .02 .015 -.08
pectineus                  hip_x      0.7  p .07 -.04 -.04  h 0 .02 -.12
adductor_longus            hip_x      1    p .06 -.02 -.07  h 0 .04 -.2
adductor_brevis            hip_x      0.8  p .04 -.02 -.08  h 0 .03 -.13
adductor_magnus_middle     hip_x      1.2  p -.02 -.03 -.1  h -.01 .03 -.2
adductor_magnus_distal     hip_x      1.2  p -.05 -.04 -.1  h 0 .06 -.34
gluteus_maximus_superior   hip_y      1    p -.09 -.05 .06  behind-hip  h -.03 -.06 -.11
gluteus_maximus_middle     hip_y      1.2  p -.1 -.05 .01  behind-hip  h -.04 -.05 -.15
gluteus_maximus_inferior   hip_y      1    p -.09 -.05 -.06  behind-hip  h -.04 -.02 -.2
gluteus_medius_anterior    hip_z      1    p .06 -.13 .06  h 0 -.085 -.05
gluteus_medius_middle      -hip_x     1.5  p 0 -.15 .08  h 0 -.085 -.05
gluteus_medius_posterior   -hip_x     1.2  p -.05 -.13 .07  h -.01 -.085 -.05
gluteus_minimus_anterior   hip_z      0.8  p .07 -.12 .02  h .01 -.085 -.03
gluteus_minimus_posterior  -hip_x     0.8  p -.02 -.14 .05  h 0 -.085 -.03
tensor_fasciae_latae       hip_z      0.8  p .07 -.15 .03  h .02 -.085 -.12  s .02 -.045 -.02
piriformis                 -hip_z     1    p -.09 -.03 -.01  h -.01 -.085 -.02
obturator_internus         -hip_z     1    p -.07 -.04 -.07  h -.02 -.085 -.03
quadratus_femoris          -hip_z     1    p -.07 -.05 -.1  h -.03 -.07 -.07
# Hip and knee
sartorius                  -hip_y     0.5  p .07 -.14 .04  h .02 .06 -.25  s -.01 .045 -.07
gracilis                   -knee      0.3  p .04 -.015 -.08  h -.03 .06 -.18  s -.01 .045 -.08
rectus_femoris             -hip_y     1    p .08 -.11 .02  h .06 .01 -.2  before-knee  s .05 0 -.06
semimembranosus            hip_y      1    p -.08 -.09 -.11  h -.045 .03 -.18  s -.01 .03 -.08
semitendinosus             -knee      0.7  p -.085 -.085 -.11  h -.045 .04 -.18  s -.01 .04 -.085
biceps_femoris_long        -knee      1    p -.08 -.1 -.11  h -.045 -.03 -.18  s -.01 -.035 -.08
# Knee: extension is +, flexion -
biceps_femoris_short       -knee      0.6  h -.045 -.03 -.16  s -.01 -.035 -.08
vastus_lateralis           knee       1.5  h .05 -.045 -.14  before-knee  s .05 -.005 -.06
vastus_medialis            knee       1.3  h .05 .05 -.16  before-knee  s .05 .005 -.06
vastus_intermedius         knee       1.2  h .06 0 -.12  before-knee  s .05 0 -.065
# Knee and ankle
gastrocnemius_medial       ankle_y    1.2  h -.055 .035 -.3  s -.045 .02 -.12  f -.07 .005 .01
gastrocnemius_lateral      ankle_y    0.7  h -.055 -.02 -.3  s -.045 -.02 -.12  f -.07 -.005 .01
# Ankle
soleus                     ankle_y    2    s -.045 0 -.1  f -.07 0 .015
tibialis_anterior          -ankle_y   1.5  s .045 -.01 -.1  s .045 .015 -.29  f .07 .03 .01
extensor_digitorum_longus  -ankle_y   0.8  s .04 -.025 -.1  s .045 -.01 -.29  f .12 -.03 .015
extensor_hallucis_longus   -ankle_y   0.5  s .04 -.015 -.14  s .045 .005 -.29  f .13 .015 .015
peroneus_longus            -ankle_x   1.2  s 0 -.05 -.1  s -.02 -.045 -.29  f .02 -.05 -.005
peroneus_brevis            -ankle_x   0.8  s 0 -.05 -.18  s -.015 -.045 -.3  f .04 -.055 0
tibialis_posterior         ankle_x    1.2  s -.04 .01 -.1  s -.025 .04 -.3  f .03 .04 0
flexor_digitorum_longus    ankle_x    0.8  s -.035 .025 -.14  s -.03 .04 -.3  f .05 .04 -.01
# Shoulder: shoulder1 draws the arm to the body (+) and away (-), shoulder2 forward (+) and backward (-)
deltoid_anterior           shoulder2  1    b -.01 -.02 .06  before-shoulder  u .12 -.01 .04
deltoid_middle             -shoulder1 1.5  b -.02 -.06 0  over-shoulder  u .13 -.04 0
deltoid_posterior          -shoulder2 1    b -.02 -.03 -.06  behind-shoulder  u .12 -.02 -.04
supraspinatus              -shoulder1 0.7  b -.08 -.04 -.02  over-shoulder  u .05 -.04 0
infraspinatus              -shoulder2 1    t -.08 -.08 .04  behind-shoulder  u .06 -.015 -.04
subscapularis              shoulder1  1    t -.06 -.09 0  under-shoulder  u .06 .04 .01
teres_major                -shoulder2 0.8  t -.08 -.1 -.02  behind-shoulder  u .1 .025 -.035
pectoralis_clavicular      shoulder2  1    t .08 -.05 .07  before-shoulder  u .11 0 .045
pectoralis_sternal         shoulder1  1    t .08 -.02 -.05  under-shoulder  u .11 .035 .025
pectoralis_abdominal       shoulder1  0.8  t .08 -.05 -.1  under-shoulder  u .11 .04 .015
latissimus_thoracic        shoulder1  1    t -.08 -.07 -.1  under-shoulder  u .1 .04 -.015
latissimus_lumbar          -shoulder2 0.8  w -.07 -.05 0  t -.08 -.11 -.08  u .09 .02 -.04
coracobrachialis           shoulder2  0.6  b -.02 .03 .05  before-shoulder  u .14 .02 .035
# Shoulder and elbow; flexion of the elbow is +
biceps_long                elbow      1    b -.04 -.02 .045  before-shoulder  u .12 0 .03  l .05 0 0
biceps_short               elbow      1    b -.02 .03 .05  before-shoulder  u .12 .02 .03  l .055 0 0
triceps_long               -elbow     1.2  b -.02 .03 -.05  behind-shoulder  u .14 .01 -.045  outside-elbow l .05 0 .033
# Elbow
triceps_lateral            -elbow     1.2  u .1 -.02 -.045  outside-elbow  l .055 0 .033
brachialis                 elbow      1    u .13 0 .025  l .045 0 0
brachioradialis            elbow      0.6  u .08 -.02 .03  l .08 0 0
"""


def _read_line(line: str) -> Muscle:
    """:return: Muscle of a line of the table. The force is the weight, and the length range is a placeholder."""
    name, action, weight, *path = line.split()
    points: list[Point] = []
    while path:
        word = path.pop(0)
        if word in _SIDES:
            bone, side = _SIDES[word]
            points[-1] = dataclasses.replace(points[-1], bone=bone, side=side)
        else:
            body, origin, axes = _FRAMES[word]
            position, path = np.array(path[:3], np.float64), path[3:]
            points.append(Point(body, _position(origin + position @ axes)))
    joint = action.removeprefix("-")
    joint = joint if joint.startswith("abdomen") else f"right_{joint}"
    return Muscle(f"right_{name}", joint, -1 if action.startswith("-") else 1, tuple(points), float(weight), (0.0, 1.0))


def right_half() -> tuple[Muscle, ...]:
    """:return: The 76 muscles of the table. Forces are the weights, and length ranges are placeholders."""
    return tuple(_read_line(line) for line in RIGHT_HALF.splitlines() if line and not line.startswith("#"))


def _other_side(name: str) -> str:
    return name.replace("right_", "left_")


def _mirrored(position: Position) -> Position:
    x, y, z = position
    return x, -y, z


# Joints whose angle changes its sign when a pose is mirrored
_TURNED = ("abdomen_x", "abdomen_z", "right_ankle_x", "right_shoulder1", "right_shoulder2")


def mirrored(part: Any) -> Any:
    """
    Mirror a bone or a muscle.

    :param part: Bone or muscle of the right half.
    :return: The same of the left half.
    """
    if isinstance(part, Bone):
        axis = None if part.axis is None else _mirrored(part.axis)
        return dataclasses.replace(
            part,
            name=_other_side(part.name),
            body=_other_side(part.body),
            position=_mirrored(part.position),
            axis=axis,
        )
    path = tuple(
        Point(_other_side(p.body), _mirrored(p.position), _other_side(p.bone), _mirrored(p.side)) for p in part.path
    )
    direction = -part.direction if part.joint in _TURNED else part.direction
    return dataclasses.replace(
        part, name=_other_side(part.name), joint=_other_side(part.joint), direction=direction, path=path
    )


def moment_arms(model: mujoco.MjModel, data: mujoco.MjData) -> NDArray[np.float64]:
    """
    Compute the torque on each joint per newton of the force of each muscle.

    :param model: The humanoid with its muscles.
    :param data: State with the pose.
    :return: Moment arms ``(muscles, joints)`` in m.
    """
    mujoco.mj_forward(model, data)
    moments = np.zeros((model.nu, model.nv))
    mujoco.mju_sparse2dense(moments, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind)
    return -moments[:, 6:]  # negative, because muscles pull; the first six columns are the free motion of the body


def mean_moment_arms(model: mujoco.MjModel) -> NDArray[np.float64]:
    """
    Average the moment arms over the range of the joint, while the other joints are as in the standing body.

    :param model: The humanoid with its muscles.
    :return: Moment arms ``(muscles, joints)`` in m.
    """
    data = mujoco.MjData(model)
    means = []
    for number, (low, high) in enumerate(model.jnt_range[1:]):
        column = []
        for angle in np.linspace(low, high, 21):
            data.qpos[:] = model.qpos0
            data.qpos[7 + number] = angle
            column.append(moment_arms(model, data)[:, number])
        means.append(np.mean(column, axis=0))
    return np.stack(means, axis=1)


def length_ranges(model: mujoco.MjModel, n_poses: int = 20_000) -> NDArray[np.float64]:
    """
    Find the range of the length of each muscle in random poses.

    :param model: The humanoid with its muscles.
    :param n_poses: Number of poses. In every second pose, all joints are at a limit.
    :return: Shortest and longest length of each muscle, ``(muscles, 2)`` in m.
    """
    rng = np.random.default_rng(0)
    data = mujoco.MjData(model)
    low, high = model.jnt_range[1:].T
    shortest, longest = np.full(model.nu, np.inf), np.zeros(model.nu)
    for number in range(n_poses):
        share = rng.uniform(size=len(low))
        data.qpos[7:] = low + (high - low) * (np.round(share) if number % 2 else share)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_tendon(model, data)
        shortest, longest = np.minimum(shortest, data.ten_length), np.maximum(longest, data.ten_length)
    return np.stack([shortest, longest], axis=1)


def motor_torques() -> dict[str, float]:
    """:return: Largest torque of dm_control's motors in Nm, by the name of the joint."""
    xml, assets = humanoid.get_model_and_assets()
    motors = mujoco.MjSpec.from_string(xml, include=assets).actuators
    return {motor.target: float(motor.gear[0]) for motor in motors}


def make() -> tuple[tuple[Bone, ...], tuple[Muscle, ...]]:
    """
    Make all bones and muscles.

    :return: Bones, and 152 muscles with forces and length ranges.
    :raises ValueError: If a muscle does not turn its joint in the direction of the table.
    """
    right = right_half()
    bones = (*BONES, *(mirrored(bone) for bone in BONES))
    muscles = (*right, *(mirrored(muscle) for muscle in right))
    model = build_model(bones, muscles)
    joints = [model.joint(number).name for number in range(1, model.njnt)]
    arms = mean_moment_arms(model)

    torques = motor_torques()
    sums: defaultdict[tuple[str, int], float] = defaultdict(float)
    for muscle, arm in zip(muscles, arms, strict=True):
        torque = muscle.direction * arm[joints.index(muscle.joint)]
        if torque < 0.005:
            raise ValueError(f"{muscle.name} has a moment arm of {torque:.4f} m at {muscle.joint} in its direction.")
        sums[muscle.joint, muscle.direction] += torque * muscle.force
    # In dm_control, the left hip bends 10 degrees further than the right one. Both sides get the same muscles.
    ranges = length_ranges(model).reshape(2, len(right), 2)
    low, high = ranges[..., 0].min(axis=0), ranges[..., 1].max(axis=0)
    right = tuple(
        dataclasses.replace(
            muscle,
            force=round(muscle.force * STRENGTH * torques[muscle.joint] / sums[muscle.joint, muscle.direction], 1),
            length_range=(round(float(low[row]), 5), round(float(high[row]), 5)),
        )
        for row, muscle in enumerate(right)
    )
    return bones, (*right, *(mirrored(muscle) for muscle in right))


def main() -> None:
    """Write the file, and print one line per joint."""
    bones, muscles = make()
    path = Path(muscle_humanoid.__file__).with_name("muscles.json")
    # One line per muscle, so that a diff shows which muscles have changed.
    lines = [",\n  ".join(json.dumps(dataclasses.asdict(part)) for part in parts) for parts in (bones, muscles)]
    with atomic_write(path) as file:
        file.write(f'{{"bones": [\n  {lines[0]}\n],\n"muscles": [\n  {lines[1]}\n]}}\n'.encode())

    model = build_model(*read_muscles())
    arms = mean_moment_arms(model)
    forces = np.array([muscle.force for muscle in muscles])
    print(f"{path}: {len(muscles)} muscles, moment arms of rank {np.linalg.matrix_rank(arms, tol=1e-3)}")
    print(f"{'joint':16} {'muscles':>7} {'torque + (Nm)':>14} {'torque - (Nm)':>14}")
    for number in range(1, model.njnt):
        arm = arms[:, number - 1]
        plus, minus = (float((forces * np.maximum(sign * arm, 0.0)).sum()) for sign in (1.0, -1.0))
        print(f"{model.joint(number).name:16} {int((np.abs(arm) > 0.005).sum()):7} {plus:14.0f} {minus:14.0f}")


if __name__ == "__main__":
    main()
