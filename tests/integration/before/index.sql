BEGIN TRANSACTION;
CREATE TABLE about (
	"key" VARCHAR(32) NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_about PRIMARY KEY ("key")
);
INSERT INTO "about" VALUES('oldest_schema','0028');
INSERT INTO "about" VALUES('closed','no');
INSERT INTO "about" VALUES('applied','f5c8bebbd1448df1c4dbec4da374bfe5:19');
INSERT INTO "about" VALUES('checkpoint','f5c8bebbd1448df1c4dbec4da374bfe5:19');
INSERT INTO "about" VALUES('swept_folder','00000000');
CREATE TABLE accounts (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	role VARCHAR(8) NOT NULL, 
	password_hash VARCHAR(200), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id), 
	CONSTRAINT ck_accounts_ck_accounts_role CHECK (role IN ('read', 'write', 'admin')), 
	CONSTRAINT uq_accounts_name UNIQUE (name)
);
INSERT INTO "accounts" VALUES(1,'ann','admin','$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA','2026-11-22 08:04:50.048590');
INSERT INTO "accounts" VALUES(2,'bob','read',NULL,'2026-11-22 08:04:50.051997');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0029');
CREATE TABLE audit_lines (
	host VARCHAR(63) NOT NULL, 
	number INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	line TEXT NOT NULL, 
	CONSTRAINT pk_audit_lines PRIMARY KEY (host, number)
);
CREATE TABLE commitments (
	id INTEGER NOT NULL, 
	transaction_uid VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	peer VARCHAR(64) NOT NULL, 
	instances INTEGER NOT NULL, 
	"references" JSON NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	failed INTEGER, 
	detail TEXT, 
	requested_at DATETIME NOT NULL, 
	due_at DATETIME, 
	ended_at DATETIME, 
	CONSTRAINT pk_commitments PRIMARY KEY (id), 
	CONSTRAINT ck_commitments_ck_commitments_state CHECK (state IN ('owed', 'reported', 'given-up')), 
	CONSTRAINT uq_commitments_transaction_uid_calling_ae_title UNIQUE (transaction_uid, calling_ae_title)
);
INSERT INTO "commitments" VALUES(1,'1.2.3','CT1','127.0.0.1',1,'[["1.2", "1.2.3"]]','owed',0,NULL,NULL,'2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000',NULL);
CREATE TABLE conflicts (
	id INTEGER NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	detail TEXT NOT NULL, 
	"key" VARCHAR(200), 
	sha256 VARCHAR(64), 
	calling_ae_title VARCHAR(16), 
	found_at DATETIME NOT NULL, decision VARCHAR(16), decided_at DATETIME, decided_by VARCHAR(64), host VARCHAR(63), 
	CONSTRAINT pk_conflicts PRIMARY KEY (id)
);
INSERT INTO "conflicts" VALUES(1,'instance-bytes','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758','1.2.826.0.1.3680043.8.498.59792478395008311573573005053304607126','the instance came again with other bytes; the first is current','quarantine/f9060b89c42c4f69a933f9190fa136e1.dcm','ccb865218a3340ee7bcdb58ee9f31b33ac156b853fe0fccf73208f96fd3d786e','MODALITY','2026-11-22 08:04:49.788779','kept','2026-11-22 08:04:50.044075','ann',NULL);
INSERT INTO "conflicts" VALUES(2,'instance-bytes','1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069','1.2.826.0.1.3680043.8.498.68593474297206530928932552398204554040','the instance came again with other bytes; the first is current','quarantine/938ddb146bfe4d90a7825249c00627a9.dcm','8a1fea86e21a8a9c6ced34cdbdcd9f03d518f1d9773a791b4227df469bb01568','MODALITY','2026-11-22 08:04:49.800901',NULL,NULL,NULL,NULL);
CREATE TABLE conversions (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	superseded BOOLEAN NOT NULL, 
	input_sha256 VARCHAR(64), 
	files_removed_at DATETIME, 
	converter VARCHAR(64) NOT NULL, 
	options JSON NOT NULL, 
	instances INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_conversions PRIMARY KEY (id), 
	CONSTRAINT fk_conversions_series_id_series FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_conversions_series_id_revision UNIQUE (series_id, revision)
);
INSERT INTO "conversions" VALUES(2,4,1,0,'547c23e3bdde79ba51e627919682fb90e85a0f0d9309a472c010f6a1ef0ca904',NULL,'voxelnode 0.1.0','{"formats": ["nifti"], "compress": true, "nifti_extension": false, "thumbnails": false, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "slices": false, "split_times": false}',4,2.37162640000860847067e-02,'2026-11-01 12:00:00.000000');
INSERT INTO "conversions" VALUES(3,5,1,0,'39a3c3dedb3ad8ba7d380e6e45ddc64245bde6540f0ff9779532d35c3132b089',NULL,'voxelnode 0.1.0','{"formats": ["nifti"], "compress": true, "nifti_extension": false, "thumbnails": false, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "slices": false, "split_times": false}',3,1.37395530000503640621e-02,'2026-11-01 12:00:00.000000');
INSERT INTO "conversions" VALUES(4,6,1,0,'e909d0ccd59f8eea5bb881061215157883dcc9c9a59c962fc3aefb769f2d4a39',NULL,'voxelnode 0.1.0','{"formats": ["nifti"], "compress": true, "nifti_extension": false, "thumbnails": false, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "slices": false, "split_times": false}',4,1.39504119999855902278e-02,'2026-11-01 12:00:00.000000');
INSERT INTO "conversions" VALUES(5,1,1,1,'239d09cb4da484f4f632b7c18b57b1b35e20058a7fcf1a306792437324126eff',NULL,'voxelnode 0.1.0','{"formats": ["nifti"], "compress": true, "nifti_extension": false, "thumbnails": false, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "slices": false, "split_times": false}',2,1.08163389998026104876e-02,'2026-11-01 12:00:00.000000');
INSERT INTO "conversions" VALUES(6,2,1,0,'4c4e45b3f95ed5e54930c4acca5ee5cf68a5537a0ab33aa6dbe841af12a920f8',NULL,'voxelnode 0.1.0','{"formats": ["nifti"], "compress": true, "nifti_extension": false, "thumbnails": false, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "slices": false, "split_times": false}',2,1.4246891999846411636e-02,'2026-11-01 12:00:00.000000');
INSERT INTO "conversions" VALUES(7,1,2,0,'239d09cb4da484f4f632b7c18b57b1b35e20058a7fcf1a306792437324126eff',NULL,'voxelnode 0.1.0','{"formats": ["nifti"], "compress": true, "nifti_extension": false, "thumbnails": false, "thumbnail_pixels": 256, "previews": false, "projections": false, "montages": false, "body_masks": false, "body_contours": false, "masked_volumes": false, "body_threshold_hu": -300.0, "suv": false, "suv_types": ["BW"], "slices": false, "split_times": false}',2,1.09093419998771423706e-02,'2026-11-01 12:00:00.000000');
CREATE TABLE deliveries (
	id INTEGER NOT NULL, 
	hook VARCHAR(64) NOT NULL, 
	message_id VARCHAR(36) NOT NULL, 
	event VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	revision INTEGER, 
	detail TEXT, 
	happened_at DATETIME NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	due_at DATETIME, 
	reason TEXT, 
	output TEXT, 
	last_at DATETIME, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id), 
	CONSTRAINT uq_deliveries_hook_message_id UNIQUE (hook, message_id)
);
INSERT INTO "deliveries" VALUES(1,'archive','m-1','volume-created','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,2,NULL,'2026-11-01 12:00:00.000000','waiting',2,'2026-11-01 12:00:00.000000','HTTP 503',NULL,'2026-11-01 12:00:00.000000');
INSERT INTO "deliveries" VALUES(2,'archive','m-2','series-converted','1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069',NULL,1,NULL,'2026-11-01 12:00:00.000000','given-up',9,NULL,'HTTP 404',NULL,'2026-11-01 12:00:00.000000');
INSERT INTO "deliveries" VALUES(3,'away/pacs','m-3','series-quiet','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,NULL,NULL,'2026-11-01 12:00:00.000000','waiting',1,'2026-11-01 12:00:00.000000','no answer',NULL,'2026-11-01 12:00:00.000000');
CREATE TABLE events (
	id INTEGER NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	revision INTEGER, 
	detail TEXT, 
	happened_at DATETIME NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (id)
);
INSERT INTO "events" VALUES(1,'instance-conflict','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758','1.2.826.0.1.3680043.8.498.59792478395008311573573005053304607126',NULL,'the instance came again with other bytes; the first is current','2026-11-22 08:04:49.788779');
INSERT INTO "events" VALUES(2,'instance-conflict','1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069','1.2.826.0.1.3680043.8.498.68593474297206530928932552398204554040',NULL,'the instance came again with other bytes; the first is current','2026-11-22 08:04:49.800901');
INSERT INTO "events" VALUES(3,'series-quiet','1.2.826.0.1.3680043.8.498.73682899505068305374377558388361208630','1.2.826.0.1.3680043.8.498.20174669427851241537833392288406555120',NULL,1,'2 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(4,'series-converted','1.2.826.0.1.3680043.8.498.73682899505068305374377558388361208630','1.2.826.0.1.3680043.8.498.20174669427851241537833392288406555120',NULL,1,'2 instances without a gap; the sender did not announce a count','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(5,'series-quiet','1.2.826.0.1.3680043.8.498.72880310276949762278900202899430457286','1.2.826.0.1.3680043.8.498.93721673232303651654623759847036938840',NULL,1,'4 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(6,'series-converted','1.2.826.0.1.3680043.8.498.72880310276949762278900202899430457286','1.2.826.0.1.3680043.8.498.93721673232303651654623759847036938840',NULL,1,'missing-slice: 1 slice is missing at 2.5 mm spacing, after slice 2; Instance Number 3 is missing; 4 instances received','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(7,'series-quiet','1.2.826.0.1.3680043.8.498.68892682504980096050722032525890158512','1.2.826.0.1.3680043.8.498.30458957611374426077335338678453961391',NULL,1,'3 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(8,'series-converted','1.2.826.0.1.3680043.8.498.68892682504980096050722032525890158512','1.2.826.0.1.3680043.8.498.30458957611374426077335338678453961391',NULL,1,'3 instances without a gap; the sender did not announce a count','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(9,'series-quiet','1.2.826.0.1.3680043.8.498.8275755715422890255653020068165350427','1.2.826.0.1.3680043.8.498.12407350378039775040100588877951456625',NULL,1,'4 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(10,'series-converted','1.2.826.0.1.3680043.8.498.8275755715422890255653020068165350427','1.2.826.0.1.3680043.8.498.12407350378039775040100588877951456625',NULL,1,'4 instances without a gap; the sender did not announce a count','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(11,'series-quiet','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,1,'2 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(12,'series-converted','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,1,'2 instances without a gap; the sender did not announce a count','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(13,'series-quiet','1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069',NULL,1,'2 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(14,'series-converted','1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069',NULL,1,'2 instances without a gap; the sender did not announce a count','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(15,'series-reopened','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,NULL,'reconversion requested','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(16,'series-quiet','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,2,'2 instances','2100-01-01 00:00:00.000000');
INSERT INTO "events" VALUES(17,'volume-superseded','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,1,'replaced by revision 2','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(18,'series-converted','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',NULL,2,'2 instances without a gap; the sender did not announce a count','2026-11-01 12:00:00.000000');
INSERT INTO "events" VALUES(19,'patient-merged','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541',NULL,NULL,NULL,'patient #1 is now #2','2026-11-22 08:04:50.056592');
INSERT INTO "events" VALUES(20,'deleted','1.2.826.0.1.3680043.8.498.73682899505068305374377558388361208630',NULL,NULL,NULL,'study, by command','2026-11-22 08:04:50.063272');
INSERT INTO "events" VALUES(21,'problem-acknowledged','1.2.826.0.1.3680043.8.498.72880310276949762278900202899430457286','1.2.826.0.1.3680043.8.498.93721673232303651654623759847036938840',NULL,NULL,'by ann','2026-11-01 12:00:00.000000');
CREATE TABLE exclusions (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	frames INTEGER NOT NULL, 
	reason VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	CONSTRAINT pk_exclusions PRIMARY KEY (id), 
	CONSTRAINT fk_exclusions_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id)
);
INSERT INTO "exclusions" VALUES(1,3,'1.2.826.0.1.3680043.8.498.63282476462360100856305414252910224744',1,'same-position-twice','another instance, of which it is no copy, has the same position');
INSERT INTO "exclusions" VALUES(2,4,'1.2.826.0.1.3680043.8.498.76384548230873186831605670813078856024',1,'duplicate-slice','the instance is a copy of another one, under a different SOP Instance UID (0008,0018)');
CREATE TABLE failures (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	stack INTEGER, 
	reason VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	failed_at DATETIME NOT NULL, 
	CONSTRAINT pk_failures PRIMARY KEY (id), 
	CONSTRAINT fk_failures_series_id_series FOREIGN KEY(series_id) REFERENCES series (id)
);
INSERT INTO "failures" VALUES(1,2,1,2,'no-geometry','for a test','2026-11-01 12:00:00.000000');
CREATE TABLE hooks (
	name VARCHAR(64) NOT NULL, 
	event_id INTEGER NOT NULL, 
	image_id INTEGER, 
	rewinds INTEGER NOT NULL, 
	delivered INTEGER NOT NULL, 
	delivered_at DATETIME, paused BOOLEAN DEFAULT 0 NOT NULL, trouble TEXT, trouble_since DATETIME, retry_at DATETIME, 
	CONSTRAINT pk_hooks PRIMARY KEY (name)
);
INSERT INTO "hooks" VALUES('archive',21,17,0,0,NULL,0,NULL,NULL,NULL);
INSERT INTO "hooks" VALUES('away/pacs',3,2,0,1,'2026-11-01 12:00:00.000000',1,'no answer','2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000');
CREATE TABLE host_removals (
	host VARCHAR(63) NOT NULL, 
	path VARCHAR(200) NOT NULL, 
	ordered_at DATETIME NOT NULL, 
	CONSTRAINT pk_host_removals PRIMARY KEY (host, path)
);
CREATE TABLE hosts (
	name VARCHAR(63) NOT NULL, 
	roles JSON NOT NULL, 
	version VARCHAR(32) NOT NULL, 
	subscribers JSON NOT NULL, 
	is_behind BOOLEAN DEFAULT 0 NOT NULL, 
	started_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	lease_until DATETIME, not_ready JSON DEFAULT '{}' NOT NULL, drain VARCHAR(8), left_behind INTEGER, 
	CONSTRAINT pk_hosts PRIMARY KEY (name)
);
CREATE TABLE images (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	instance_number INTEGER, 
	number_of_frames INTEGER, 
	rows INTEGER, 
	columns INTEGER, 
	acquisition_number INTEGER, 
	content_date DATE, 
	content_time TIME, 
	images_in_acquisition INTEGER, 
	number_of_temporal_positions INTEGER, 
	number_of_slices INTEGER, 
	number_of_time_slices INTEGER, 
	number_of_series_related_instances INTEGER, 
	file_missing BOOLEAN DEFAULT 0 NOT NULL, 
	bytes BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	data_set_offset INTEGER NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	calling_ae_title VARCHAR(16), 
	called_ae_title VARCHAR(16), 
	peer VARCHAR(64), 
	received_at DATETIME NOT NULL, timezone_offset_from_utc VARCHAR(16), place VARCHAR(8), spool_host VARCHAR(63), 
	CONSTRAINT pk_images PRIMARY KEY (id), 
	CONSTRAINT fk_images_series_id_series FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_images_key UNIQUE ("key"), 
	CONSTRAINT uq_images_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "images" VALUES(1,1,'1.2.826.0.1.3680043.8.498.59792478395008311573573005053304607126','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'80b9700f3d82215bc27b31e9ea8c663db987627f1a4ff9a900117ac6840cd2c6',380,'objects/00000000/4abab974e3fe480da0fbfccc5623d907.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.733742',NULL,NULL,NULL);
INSERT INTO "images" VALUES(2,1,'1.2.826.0.1.3680043.8.498.31561750838390511375794875517600403808','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',2,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'1c2c331b63c70748f0eac6d122b88323f1fe50e20ba98b7729b44548e55ab9e6',380,'objects/00000000/6be0145bebe24e1ca072cac2bba5434b.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.747605',NULL,NULL,NULL);
INSERT INTO "images" VALUES(3,2,'1.2.826.0.1.3680043.8.498.5999561225762059105473742536694353897','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'585ac7fb8cf2958839c95d37329229d322a8dab7908b79b7da88dc1d8dfb7b58',380,'objects/00000000/8c597e4b618f47e78ce278f6e1f9d490.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.750440',NULL,NULL,NULL);
INSERT INTO "images" VALUES(4,2,'1.2.826.0.1.3680043.8.498.68593474297206530928932552398204554040','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',2,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'aaa34f34bd73076bb01bcb55df4dbde10fba22f28b255660fb913c41b01106d9',380,'objects/00000000/ad7e2c9535d14773b39b7f6d8546746c.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.756935',NULL,NULL,NULL);
INSERT INTO "images" VALUES(7,4,'1.2.826.0.1.3680043.8.498.22459414524075862745524959083869416421','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'7852185730fe3d7a8cbec5b6e9f420ef88b81ceafd4707f86a0b33282b7b6cc4',380,'objects/00000000/aaf835b7ac0f49b9bb73982166f432a9.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.764608',NULL,NULL,NULL);
INSERT INTO "images" VALUES(8,4,'1.2.826.0.1.3680043.8.498.91829106481834709339706413488903520974','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',2,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'275bdf3da8f6c56c69be18b88322460b13fd4f5982b6ee123e14bad09d7c60ae',380,'objects/00000000/2b51d06b516249e8a805cc51ba9437ec.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.768764',NULL,NULL,NULL);
INSERT INTO "images" VALUES(9,4,'1.2.826.0.1.3680043.8.498.89593328528593599399242462819966620096','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',4,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'2a0f5ec4983a8ce62aae8aca27eb5e5b35272e7afa563cdd987fa09ed554913c',380,'objects/00000000/fc74178162ce4c4b88f2ad73f9def8bf.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.770396',NULL,NULL,NULL);
INSERT INTO "images" VALUES(10,4,'1.2.826.0.1.3680043.8.498.55949885654149574883304335206472341735','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',5,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'2f8adcd98b8028ae21519e6def54afc07f3e308ab09163a30d2a24931e1f4eef',380,'objects/00000000/a4521f2f31394806bfb1e780a13a3289.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.771756',NULL,NULL,NULL);
INSERT INTO "images" VALUES(11,5,'1.2.826.0.1.3680043.8.498.77841189311120711512622215217749455266','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'ed7ea146e898d9631526998c5b49bc336b835ea3fbefc58acc196cc5c14aa2a1',380,'objects/00000000/9d588587c2964318a8c02e6cb9c84ddd.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.772951',NULL,NULL,NULL);
INSERT INTO "images" VALUES(12,5,'1.2.826.0.1.3680043.8.498.62707150049882622742855901661509386852','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',2,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'7d4744155a058711af317b3b77945b2bc4ca8651df3a1ca657676e2b838bcc0a',380,'objects/00000000/7cd09e92a5b84a6eb9cf2b94d5b24706.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.777414',NULL,NULL,NULL);
INSERT INTO "images" VALUES(13,5,'1.2.826.0.1.3680043.8.498.63282476462360100856305414252910224744','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',3,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'ad785be6ba23a52e2cf2be122defb90676de4e494b51e01f69d701db52b74daa',380,'objects/00000000/569c2ca50c374e88ae4db0fae583e689.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.778701',NULL,NULL,NULL);
INSERT INTO "images" VALUES(14,6,'1.2.826.0.1.3680043.8.498.74431590319877018493212806388497818199','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',1,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'72231c9b08a9fbe367c10b580b6aaf8ea20a6e7fa0d2971e578e891dfe31fc50',380,'objects/00000000/ae4b7730137d48bf86d70f608b0f4735.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.780252',NULL,NULL,NULL);
INSERT INTO "images" VALUES(15,6,'1.2.826.0.1.3680043.8.498.38416272234719461506674612227296245449','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',2,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1100,'c7a9b7e1169533564da415de08a5749813938f9d667bb04bb5723cc619cf5606',380,'objects/00000000/d20136224baa475a84cab96de9a10ff1.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.783416',NULL,NULL,NULL);
INSERT INTO "images" VALUES(16,6,'1.2.826.0.1.3680043.8.498.97499005094698423863475021755623189515','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',3,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'5813409109b1da9e33577f435923850d8e3025298c599b9fac068b456a3402f9',380,'objects/00000000/8559f9d657104103ada96eb7f430a3df.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.785043',NULL,NULL,NULL);
INSERT INTO "images" VALUES(17,6,'1.2.826.0.1.3680043.8.498.76384548230873186831605670813078856024','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1',4,NULL,16,12,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1098,'94be205151b242382eda59ba47ec751fc4223aad4a83ea6a40c467214fc0c0bf',380,'objects/00000000/371973afb5aa4fccaafa4964723fa1f2.dcm','dicom','MODALITY','VOXELNODE','127.0.0.1:1','2026-11-22 08:04:49.787461',NULL,NULL,NULL);
CREATE TABLE jobs (
	id INTEGER NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	hook VARCHAR(64) NOT NULL, 
	message_id VARCHAR(36) NOT NULL, 
	replayed BOOLEAN DEFAULT 0 NOT NULL, 
	event VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64), 
	revision INTEGER, 
	happened_at DATETIME NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	percent INTEGER, 
	detail TEXT, 
	location TEXT, 
	tokens JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	due_at DATETIME, 
	ended_at DATETIME, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT ck_jobs_ck_jobs_state CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'expired')), 
	CONSTRAINT uq_jobs_job_id UNIQUE (job_id)
);
INSERT INTO "jobs" VALUES(1,'33333333333333333333333333333333','masks','m-4',0,'volume-created','1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069',1,'2026-11-01 12:00:00.000000','running',50,NULL,NULL,'[]','2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000','2100-01-01 00:00:00.000000',NULL);
CREATE TABLE keyed_requests (
	id INTEGER NOT NULL, 
	account VARCHAR(64) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	answer TEXT, 
	began_at DATETIME NOT NULL, 
	CONSTRAINT pk_keyed_requests PRIMARY KEY (id), 
	CONSTRAINT uq_keyed_requests_account_key UNIQUE (account, "key")
);
INSERT INTO "keyed_requests" VALUES(1,'ann','one','0000000000000000000000000000000000000000000000000000000000000000','{}','2026-11-01 12:00:00.000000');
CREATE TABLE leases (
	name VARCHAR(160) NOT NULL, 
	host VARCHAR(63) NOT NULL, 
	CONSTRAINT pk_leases PRIMARY KEY (name)
);
CREATE TABLE object_removals (
	"key" VARCHAR(200) NOT NULL, 
	ordered_at DATETIME NOT NULL, 
	CONSTRAINT pk_object_removals PRIMARY KEY ("key")
);
CREATE TABLE patients (
	id INTEGER NOT NULL, 
	identity VARCHAR(200) NOT NULL, 
	patient_id VARCHAR(64), 
	issuer_of_patient_id VARCHAR(64), 
	patient_name VARCHAR(324), 
	patient_birth_date DATE, 
	patient_birth_time TIME, 
	patient_sex VARCHAR(16), 
	merged_into INTEGER, patient_name_alphabetic VARCHAR(324), patient_name_ideographic VARCHAR(324), patient_name_phonetic VARCHAR(324), 
	CONSTRAINT pk_patients PRIMARY KEY (id), 
	CONSTRAINT fk_patients_merged_into_patients FOREIGN KEY(merged_into) REFERENCES patients (id), 
	CONSTRAINT uq_patients_identity UNIQUE (identity)
);
INSERT INTO "patients" VALUES(1,'\A','A',NULL,'Voxel^Test',NULL,NULL,'O',2,'voxel^test',NULL,NULL);
INSERT INTO "patients" VALUES(2,'\B','B',NULL,'Voxel^Test',NULL,NULL,'O',NULL,'voxel^test',NULL,NULL);
INSERT INTO "patients" VALUES(4,'\D','D',NULL,'Voxel^Test',NULL,NULL,'O',NULL,'voxel^test',NULL,NULL);
INSERT INTO "patients" VALUES(5,'\E','E',NULL,'Voxel^Test',NULL,NULL,'O',NULL,'voxel^test',NULL,NULL);
INSERT INTO "patients" VALUES(6,'\F','F',NULL,'Voxel^Test',NULL,NULL,'O',NULL,'voxel^test',NULL,NULL);
CREATE TABLE performed_series (
	id INTEGER NOT NULL, 
	performed_step_id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64) NOT NULL, 
	sop_instance_uids JSON NOT NULL, 
	CONSTRAINT pk_performed_series PRIMARY KEY (id), 
	CONSTRAINT fk_performed_series_performed_step_id_performed_steps FOREIGN KEY(performed_step_id) REFERENCES performed_steps (id) ON DELETE CASCADE
);
INSERT INTO "performed_series" VALUES(1,1,'1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758','["1.2.826.0.1.3680043.8.498.59792478395008311573573005053304607126", "1.2.826.0.1.3680043.8.498.31561750838390511375794875517600403808"]');
CREATE TABLE performed_steps (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	patient_id VARCHAR(64), 
	accession_number VARCHAR(16), 
	performed_procedure_step_id VARCHAR(16), 
	modality VARCHAR(16), 
	station_ae_title VARCHAR(16), 
	series INTEGER NOT NULL, 
	instances INTEGER NOT NULL, 
	attributes JSON NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	CONSTRAINT pk_performed_steps PRIMARY KEY (id), 
	CONSTRAINT ck_performed_steps_ck_performed_steps_state CHECK (state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')), 
	CONSTRAINT uq_performed_steps_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "performed_steps" VALUES(1,'1.2.4','COMPLETED','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541',NULL,NULL,NULL,NULL,NULL,1,2,'{}','CT1','2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000');
CREATE TABLE rejections (
	id INTEGER NOT NULL, 
	what VARCHAR(16) NOT NULL, 
	rule VARCHAR(64) NOT NULL, 
	peer VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	offered TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	remedy TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	first_at DATETIME NOT NULL, 
	last_at DATETIME NOT NULL, 
	CONSTRAINT pk_rejections PRIMARY KEY (id)
);
INSERT INTO "rejections" VALUES(1,'association','calling-ae-title','10.0.0.9','STRANGER','VOXELNODE','','the calling AE title is not in [peers]','add it',3,'2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000');
CREATE TABLE results (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	file VARCHAR(100) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	source_series_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	segments JSON, 
	stored_at DATETIME, 
	CONSTRAINT pk_results PRIMARY KEY (id), 
	CONSTRAINT fk_results_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE, 
	CONSTRAINT uq_results_job_id_file UNIQUE (job_id, file), 
	CONSTRAINT uq_results_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "results" VALUES(1,1,'mask.nii.gz','segmentation','4444444444444444444444444444444444444444444444444444444444444444','1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069','1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','1.2.7','1.2.8','1.2.9','{"liver": 1}',NULL);
CREATE TABLE retrievals (
	id INTEGER NOT NULL, 
	retrieval_id VARCHAR(32) NOT NULL, 
	peer VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64), 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	announced INTEGER, 
	stored INTEGER NOT NULL, 
	refused INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	detail TEXT, 
	requested_by VARCHAR(64) NOT NULL, 
	cancelled_by VARCHAR(64), 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	CONSTRAINT pk_retrievals PRIMARY KEY (id), 
	CONSTRAINT ck_retrievals_ck_retrievals_state CHECK (state IN ('waiting', 'running', 'succeeded', 'incomplete', 'failed', 'cancelled')), 
	CONSTRAINT uq_retrievals_retrieval_id UNIQUE (retrieval_id)
);
INSERT INTO "retrievals" VALUES(1,'55555555555555555555555555555555','pacs','1.2.10',NULL,'waiting',0,NULL,0,0,0,NULL,'ann',NULL,'2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000',NULL);
CREATE TABLE revision_files (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	"key" VARCHAR(400) NOT NULL, 
	bytes BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	place VARCHAR(8), 
	spool_host VARCHAR(63), 
	CONSTRAINT pk_revision_files PRIMARY KEY (id), 
	CONSTRAINT fk_revision_files_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id), 
	CONSTRAINT uq_revision_files_key UNIQUE ("key")
);
CREATE TABLE scheduled_steps (
	id INTEGER NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	source_key VARCHAR(300), 
	source_version VARCHAR(64), 
	patient_id VARCHAR(64), 
	patient_name VARCHAR(324), 
	accession_number VARCHAR(16), 
	study_instance_uid VARCHAR(64), 
	requested_procedure_id VARCHAR(16), 
	scheduled_procedure_step_id VARCHAR(16), 
	modality VARCHAR(16), 
	station_ae_title VARCHAR(16), 
	start_date DATE, 
	start_time TIME, 
	description VARCHAR(64), 
	attributes JSON NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	CONSTRAINT pk_scheduled_steps PRIMARY KEY (id), 
	CONSTRAINT uq_scheduled_steps_source_source_key UNIQUE (source, source_key)
);
INSERT INTO "scheduled_steps" VALUES(1,'api','k',NULL,'A','A^B','ACC','1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541',NULL,'S1','CT',NULL,'2026-11-01',NULL,NULL,'{}','SCHEDULED','2026-11-01 12:00:00.000000','2026-11-01 12:00:00.000000');
CREATE TABLE senders (
	calling_ae_title VARCHAR(16) NOT NULL, 
	gaps JSON NOT NULL, 
	quiet_seconds FLOAT, 
	learnt_at DATETIME NOT NULL, 
	CONSTRAINT pk_senders PRIMARY KEY (calling_ae_title)
);
INSERT INTO "senders" VALUES('MODALITY','[0.004, 0.004, 0.004, 0.003, 0.014, 0.006, 0.014]',10.0,'2100-01-01 00:00:00.000000');
CREATE TABLE sent_instances (
	image_id INTEGER NOT NULL, 
	subscriber VARCHAR(130) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	sent_at DATETIME NOT NULL, 
	transaction_uid VARCHAR(64), 
	asked_at DATETIME, 
	asks INTEGER NOT NULL, 
	confirmed_at DATETIME, 
	CONSTRAINT pk_sent_instances PRIMARY KEY (image_id, subscriber), 
	CONSTRAINT ck_sent_instances_ck_sent_instances_state CHECK (state IN ('sent', 'owed', 'asked', 'confirmed', 'lost')), 
	CONSTRAINT fk_sent_instances_image_id_images FOREIGN KEY(image_id) REFERENCES images (id) ON DELETE CASCADE
);
INSERT INTO "sent_instances" VALUES(1,'away/pacs','2222222222222222222222222222222222222222222222222222222222222222','1.2','1.2.826.0.1.3680043.8.498.59792478395008311573573005053304607126','owed','2026-11-01 12:00:00.000000',NULL,NULL,0,NULL);
CREATE TABLE series (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	modality VARCHAR(16), 
	series_number INTEGER, 
	series_description VARCHAR(64), 
	series_date DATE, 
	series_time TIME, 
	body_part_examined VARCHAR(16), 
	laterality VARCHAR(16), 
	protocol_name VARCHAR(64), 
	manufacturer VARCHAR(64), 
	manufacturer_model_name VARCHAR(64), 
	station_name VARCHAR(16), 
	frame_of_reference_uid VARCHAR(64), 
	performed_procedure_step_start_date DATE, 
	performed_procedure_step_start_time TIME, 
	state VARCHAR(16) NOT NULL, 
	open_since DATETIME, 
	last_received_at DATETIME NOT NULL, 
	due_at DATETIME, 
	arrivals INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	claim VARCHAR(32), 
	claimed_arrivals INTEGER, 
	attempts INTEGER NOT NULL, 
	error TEXT, 
	verdict VARCHAR(16), 
	verdict_rule VARCHAR(32), 
	verdict_reason TEXT, 
	expected_instances INTEGER, 
	expected_source VARCHAR(64), 
	missing_instances INTEGER, waits JSON, missing_detail TEXT, timezone_offset_from_utc VARCHAR(16), request_attributes JSON, acknowledged_problem VARCHAR(64), acknowledged_reason TEXT, acknowledged_by VARCHAR(64), acknowledged_at DATETIME, claimed_by VARCHAR(63), 
	CONSTRAINT pk_series PRIMARY KEY (id), 
	CONSTRAINT ck_series_ck_series_state CHECK (state IN ('receiving', 'converting', 'converted', 'refused', 'not-an-image', 'failed')), 
	CONSTRAINT fk_series_study_id_studies FOREIGN KEY(study_id) REFERENCES studies (id), 
	CONSTRAINT uq_series_study_id_series_instance_uid UNIQUE (study_id, series_instance_uid)
);
INSERT INTO "series" VALUES(1,1,'1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.67313453364551818944298470661712933330',NULL,NULL,'converted',NULL,'2026-11-22 08:04:49.747605',NULL,2,2,NULL,NULL,0,NULL,'complete','geometry','2 instances without a gap; the sender did not announce a count',NULL,NULL,0,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "series" VALUES(2,2,'1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.77821851421372444353192724189938003419',NULL,NULL,'converted',NULL,'2026-11-22 08:04:49.756935',NULL,2,1,NULL,NULL,0,NULL,'complete','geometry','2 instances without a gap; the sender did not announce a count',NULL,NULL,0,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "series" VALUES(4,4,'1.2.826.0.1.3680043.8.498.93721673232303651654623759847036938840','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.59088018381743058325724720969562062527',NULL,NULL,'converted',NULL,'2026-11-22 08:04:49.771756',NULL,4,1,NULL,NULL,0,NULL,'incomplete','geometry','missing-slice: 1 slice is missing at 2.5 mm spacing, after slice 2; Instance Number 3 is missing; 4 instances received',NULL,NULL,1,NULL,'slices 5 mm from the first; Instance Number 3',NULL,NULL,'converted incomplete 1','known','ann','2026-11-01 12:00:00.000000',NULL);
INSERT INTO "series" VALUES(5,5,'1.2.826.0.1.3680043.8.498.30458957611374426077335338678453961391','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.65445206804946988677833264838211168615',NULL,NULL,'converted',NULL,'2026-11-22 08:04:49.778701',NULL,3,1,NULL,NULL,0,NULL,'complete','geometry','3 instances without a gap; the sender did not announce a count',NULL,NULL,0,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "series" VALUES(6,6,'1.2.826.0.1.3680043.8.498.12407350378039775040100588877951456625','CT',1,NULL,NULL,NULL,NULL,NULL,NULL,'Example',NULL,NULL,'1.2.826.0.1.3680043.8.498.44243712909487663705507822721445555910',NULL,NULL,'converted',NULL,'2026-11-22 08:04:49.787461',NULL,4,1,NULL,NULL,0,NULL,'complete','geometry','4 instances without a gap; the sender did not announce a count',NULL,NULL,0,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE series_references (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER, 
	CONSTRAINT pk_series_references PRIMARY KEY (id), 
	CONSTRAINT fk_series_references_series_id_series FOREIGN KEY(series_id) REFERENCES series (id)
);
INSERT INTO "series_references" VALUES(1,2,'1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758',1);
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	patient_id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	study_date DATE, 
	study_time TIME, 
	accession_number VARCHAR(16), 
	study_id VARCHAR(16), 
	study_description VARCHAR(64), 
	referring_physician_name VARCHAR(324), 
	patient_age VARCHAR(4), 
	closed_at DATETIME, 
	quiet_at DATETIME, referring_physician_name_alphabetic VARCHAR(324), referring_physician_name_ideographic VARCHAR(324), referring_physician_name_phonetic VARCHAR(324), timezone_offset_from_utc VARCHAR(16), 
	CONSTRAINT pk_studies PRIMARY KEY (id), 
	CONSTRAINT fk_studies_patient_id_patients FOREIGN KEY(patient_id) REFERENCES patients (id), 
	CONSTRAINT uq_studies_study_instance_uid UNIQUE (study_instance_uid)
);
INSERT INTO "studies" VALUES(1,2,'1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,'2026-11-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "studies" VALUES(2,2,'1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,'2026-11-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "studies" VALUES(4,4,'1.2.826.0.1.3680043.8.498.72880310276949762278900202899430457286','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,'2026-11-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "studies" VALUES(5,5,'1.2.826.0.1.3680043.8.498.68892682504980096050722032525890158512','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,'2026-11-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "studies" VALUES(6,6,'1.2.826.0.1.3680043.8.498.8275755715422890255653020068165350427','2024-01-02','10:15:00.000000',NULL,'1',NULL,NULL,NULL,'2026-11-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE tokens (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	label VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	CONSTRAINT pk_tokens PRIMARY KEY (id), 
	CONSTRAINT fk_tokens_account_id_accounts FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_tokens_sha256 UNIQUE (sha256), 
	CONSTRAINT uq_tokens_account_id_label UNIQUE (account_id, label)
);
INSERT INTO "tokens" VALUES(1,1,'script','0000000000000000000000000000000000000000000000000000000000000000','2026-11-22 08:04:50.053727',NULL);
CREATE TABLE tombstones (
	id INTEGER NOT NULL, 
	level VARCHAR(16) NOT NULL, 
	uid VARCHAR(64) NOT NULL, 
	reason VARCHAR(64) NOT NULL, 
	paths JSON NOT NULL, 
	ordered_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	CONSTRAINT pk_tombstones PRIMARY KEY (id)
);
INSERT INTO "tombstones" VALUES(1,'study','1.2.826.0.1.3680043.8.498.73682899505068305374377558388361208630','by command','["volumes/1.2.826.0.1.3680043.8.498.73682899505068305374377558388361208630/1.2.826.0.1.3680043.8.498.20174669427851241537833392288406555120/1-243401f5", "objects/00000000/89ba10ed00784abb947969d4748040a9.dcm", "objects/00000000/e1f88f57dec1421db056325a7087475c.dcm"]','2026-11-22 08:04:50.063272','2026-11-22 08:04:50.063272');
CREATE TABLE volume_sources (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	stack INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	frames INTEGER NOT NULL, 
	CONSTRAINT pk_volume_sources PRIMARY KEY (id), 
	CONSTRAINT fk_volume_sources_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id)
);
INSERT INTO "volume_sources" VALUES(3,2,0,'1.2.826.0.1.3680043.8.498.22459414524075862745524959083869416421','7852185730fe3d7a8cbec5b6e9f420ef88b81ceafd4707f86a0b33282b7b6cc4',1);
INSERT INTO "volume_sources" VALUES(4,2,0,'1.2.826.0.1.3680043.8.498.91829106481834709339706413488903520974','275bdf3da8f6c56c69be18b88322460b13fd4f5982b6ee123e14bad09d7c60ae',1);
INSERT INTO "volume_sources" VALUES(5,2,0,'1.2.826.0.1.3680043.8.498.89593328528593599399242462819966620096','2a0f5ec4983a8ce62aae8aca27eb5e5b35272e7afa563cdd987fa09ed554913c',1);
INSERT INTO "volume_sources" VALUES(6,2,0,'1.2.826.0.1.3680043.8.498.55949885654149574883304335206472341735','2f8adcd98b8028ae21519e6def54afc07f3e308ab09163a30d2a24931e1f4eef',1);
INSERT INTO "volume_sources" VALUES(7,3,0,'1.2.826.0.1.3680043.8.498.77841189311120711512622215217749455266','ed7ea146e898d9631526998c5b49bc336b835ea3fbefc58acc196cc5c14aa2a1',1);
INSERT INTO "volume_sources" VALUES(8,3,0,'1.2.826.0.1.3680043.8.498.62707150049882622742855901661509386852','7d4744155a058711af317b3b77945b2bc4ca8651df3a1ca657676e2b838bcc0a',1);
INSERT INTO "volume_sources" VALUES(9,4,0,'1.2.826.0.1.3680043.8.498.74431590319877018493212806388497818199','72231c9b08a9fbe367c10b580b6aaf8ea20a6e7fa0d2971e578e891dfe31fc50',1);
INSERT INTO "volume_sources" VALUES(10,4,0,'1.2.826.0.1.3680043.8.498.38416272234719461506674612227296245449','c7a9b7e1169533564da415de08a5749813938f9d667bb04bb5723cc619cf5606',1);
INSERT INTO "volume_sources" VALUES(11,4,0,'1.2.826.0.1.3680043.8.498.97499005094698423863475021755623189515','5813409109b1da9e33577f435923850d8e3025298c599b9fac068b456a3402f9',1);
INSERT INTO "volume_sources" VALUES(12,5,0,'1.2.826.0.1.3680043.8.498.59792478395008311573573005053304607126','80b9700f3d82215bc27b31e9ea8c663db987627f1a4ff9a900117ac6840cd2c6',1);
INSERT INTO "volume_sources" VALUES(13,5,0,'1.2.826.0.1.3680043.8.498.31561750838390511375794875517600403808','1c2c331b63c70748f0eac6d122b88323f1fe50e20ba98b7729b44548e55ab9e6',1);
INSERT INTO "volume_sources" VALUES(14,6,0,'1.2.826.0.1.3680043.8.498.5999561225762059105473742536694353897','585ac7fb8cf2958839c95d37329229d322a8dab7908b79b7da88dc1d8dfb7b58',1);
INSERT INTO "volume_sources" VALUES(15,6,0,'1.2.826.0.1.3680043.8.498.68593474297206530928932552398204554040','aaa34f34bd73076bb01bcb55df4dbde10fba22f28b255660fb913c41b01106d9',1);
INSERT INTO "volume_sources" VALUES(16,7,0,'1.2.826.0.1.3680043.8.498.59792478395008311573573005053304607126','80b9700f3d82215bc27b31e9ea8c663db987627f1a4ff9a900117ac6840cd2c6',1);
INSERT INTO "volume_sources" VALUES(17,7,0,'1.2.826.0.1.3680043.8.498.31561750838390511375794875517600403808','1c2c331b63c70748f0eac6d122b88323f1fe50e20ba98b7729b44548e55ab9e6',1);
CREATE TABLE volumes (
	id INTEGER NOT NULL, 
	conversion_id INTEGER NOT NULL, 
	stack INTEGER NOT NULL, 
	suffix VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	format VARCHAR(16) NOT NULL, 
	path VARCHAR(400) NOT NULL, 
	shape JSON NOT NULL, 
	spacing_mm JSON NOT NULL, 
	dtype VARCHAR(16) NOT NULL, 
	geometry VARCHAR(16) NOT NULL, 
	instances INTEGER NOT NULL, 
	warnings JSON NOT NULL, 
	bytes BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, orientation VARCHAR(8), affine_lps JSON, slice_thickness_mm FLOAT, repetition_time_ms FLOAT, echo_time_ms FLOAT, inversion_time_ms FLOAT, flip_angle_degrees FLOAT, magnetic_field_strength_t FLOAT, sequence VARCHAR(64), weighting VARCHAR(8), contrast_agent VARCHAR(16), convolution_kernel VARCHAR(64), 
	CONSTRAINT pk_volumes PRIMARY KEY (id), 
	CONSTRAINT fk_volumes_conversion_id_conversions FOREIGN KEY(conversion_id) REFERENCES conversions (id), 
	CONSTRAINT uq_volumes_conversion_id_path UNIQUE (conversion_id, path)
);
INSERT INTO "volumes" VALUES(2,2,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.72880310276949762278900202899430457286/1.2.826.0.1.3680043.8.498.93721673232303651654623759847036938840/1-d5573cdc/volume.nii.gz','[12, 16, 4]','[0.5, 0.75, 2.5]','int16','irregular',4,'["missing-slice"]',1339,'58ee64d5c8caab4e2bbe38562888260702b080229b43af12d5258f5b778581d7','axial','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(3,2,0,'','resampled','nifti','volumes/1.2.826.0.1.3680043.8.498.72880310276949762278900202899430457286/1.2.826.0.1.3680043.8.498.93721673232303651654623759847036938840/1-d5573cdc/volume_resampled.nii.gz','[12, 16, 5]','[0.5, 0.75, 2.5]','int16','regular',4,'["missing-slice"]',1629,'dac4bf4ba8d29b940a6140b93398f3df9dac8e8552f03edf5564a5dff6a57214','axial','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(4,3,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.68892682504980096050722032525890158512/1.2.826.0.1.3680043.8.498.30458957611374426077335338678453961391/1-34791bdf/volume.nii.gz','[12, 16, 2]','[0.5, 0.75, 2.5]','int16','regular',2,'["same-position-twice"]',771,'932588a4c19d2c53617bbb83df3716b9dc091219cf91f206796c042cc21caec1','axial','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(5,4,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.8275755715422890255653020068165350427/1.2.826.0.1.3680043.8.498.12407350378039775040100588877951456625/1-a1bba685/volume.nii.gz','[12, 16, 3]','[0.5, 0.75, 2.5]','int16','regular',3,'["duplicate-slice"]',1053,'a0420f7eac14c3fea992555c9e87a7fc436e3b93be5b7145700ab7a2c866e5ca','axial','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(6,5,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541/1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758/1-0a05b5e6/volume.nii.gz','[12, 16, 2]','[0.5, 0.75, 2.5]','int16','regular',2,'[]',771,'932588a4c19d2c53617bbb83df3716b9dc091219cf91f206796c042cc21caec1','axial','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(7,6,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.8029687340686466499816656087800768418/1.2.826.0.1.3680043.8.498.18519894704591506856708463726297964069/1-3d69b12b/volume.nii.gz','[12, 16, 2]','[0.5, 0.75, 2.5]','int16','regular',2,'[]',771,'932588a4c19d2c53617bbb83df3716b9dc091219cf91f206796c042cc21caec1','axial','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "volumes" VALUES(8,7,0,'','volume','nifti','volumes/1.2.826.0.1.3680043.8.498.43936012174288258522147556836780711541/1.2.826.0.1.3680043.8.498.52721581848347291513351961257501114758/2-c1034b65/volume.nii.gz','[12, 16, 2]','[0.5, 0.75, 2.5]','int16','regular',2,'[]',771,'932588a4c19d2c53617bbb83df3716b9dc091219cf91f206796c042cc21caec1','axial','[[0.5, 0.0, 0.0, -50.0], [0.0, 0.75, 0.0, -40.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]]',2.5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE web_sessions (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_web_sessions PRIMARY KEY (id), 
	CONSTRAINT fk_web_sessions_account_id_accounts FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_web_sessions_sha256 UNIQUE (sha256)
);
INSERT INTO "web_sessions" VALUES(1,1,'1111111111111111111111111111111111111111111111111111111111111111','2026-11-01 12:00:00.000000','2100-01-01 00:00:00.000000');
CREATE TABLE workitem_locks (
	id INTEGER NOT NULL, 
	workitem_id INTEGER NOT NULL, 
	account VARCHAR(64) NOT NULL, 
	ae_title VARCHAR(16) NOT NULL, 
	CONSTRAINT pk_workitem_locks PRIMARY KEY (id), 
	CONSTRAINT fk_workitem_locks_workitem_id_workitems FOREIGN KEY(workitem_id) REFERENCES workitems (id) ON DELETE CASCADE, 
	CONSTRAINT uq_workitem_locks_workitem_id_account_ae_title UNIQUE (workitem_id, account, ae_title)
);
INSERT INTO "workitem_locks" VALUES(1,1,'ann','WATCHER');
CREATE TABLE workitem_reports (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	workitem_id INTEGER NOT NULL, 
	event_type INTEGER NOT NULL, 
	report JSON NOT NULL, 
	CONSTRAINT fk_workitem_reports_workitem_id_workitems FOREIGN KEY(workitem_id) REFERENCES workitems (id) ON DELETE CASCADE
);
INSERT INTO "workitem_reports" VALUES(1,1,1,'{}');
CREATE TABLE workitem_subscribers (
	id INTEGER NOT NULL, 
	account VARCHAR(64) NOT NULL, 
	ae_title VARCHAR(16) NOT NULL, 
	subscriptions JSON NOT NULL, 
	CONSTRAINT pk_workitem_subscribers PRIMARY KEY (id), 
	CONSTRAINT uq_workitem_subscribers_account_ae_title UNIQUE (account, ae_title)
);
INSERT INTO "workitem_subscribers" VALUES(1,'ann','WATCHER','{}');
CREATE TABLE workitems (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	transaction_uid VARCHAR(64), 
	patient_id VARCHAR(64), 
	attributes JSON NOT NULL, 
	created_by VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	ended_at DATETIME, work VARCHAR(16), work_of VARCHAR(130), work_key VARCHAR(36), study_instance_uid VARCHAR(64), series_instance_uid VARCHAR(64), cancelled_by VARCHAR(64), 
	CONSTRAINT ck_workitems_ck_workitems_state CHECK (state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED')), 
	CONSTRAINT uq_workitems_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "workitems" VALUES(1,'1.2.5','IN PROGRESS','1.2.6','A','{}','ann','2026-11-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE INDEX ix_conflicts_key ON conflicts ("key");
CREATE INDEX ix_conflicts_sop_instance_uid ON conflicts (sop_instance_uid);
CREATE INDEX ix_conflicts_study_instance_uid ON conflicts (study_instance_uid);
CREATE INDEX ix_events_happened_at ON events (happened_at);
CREATE INDEX ix_events_kind ON events (kind);
CREATE INDEX ix_events_series_instance_uid ON events (series_instance_uid);
CREATE INDEX ix_patients_merged_into ON patients (merged_into);
CREATE INDEX ix_patients_patient_id ON patients (patient_id);
CREATE INDEX ix_patients_patient_name ON patients (patient_name);
CREATE INDEX ix_rejections_last_at ON rejections (last_at);
CREATE INDEX ix_rejections_rule ON rejections (rule);
CREATE INDEX ix_tombstones_uid ON tombstones (uid);
CREATE INDEX ix_studies_accession_number ON studies (accession_number);
CREATE INDEX ix_studies_closed_at ON studies (closed_at);
CREATE INDEX ix_studies_patient_id ON studies (patient_id);
CREATE INDEX ix_studies_study_date ON studies (study_date);
CREATE INDEX ix_studies_study_id ON studies (study_id);
CREATE INDEX ix_series_series_instance_uid ON series (series_instance_uid);
CREATE INDEX ix_series_state_due_at ON series (state, due_at);
CREATE INDEX ix_series_study_id ON series (study_id);
CREATE INDEX ix_failures_series_id ON failures (series_id);
CREATE INDEX ix_images_series_id ON images (series_id);
CREATE INDEX ix_exclusions_conversion_id ON exclusions (conversion_id);
CREATE INDEX ix_exclusions_sop_instance_uid ON exclusions (sop_instance_uid);
CREATE INDEX ix_volume_sources_conversion_id_stack ON volume_sources (conversion_id, stack);
CREATE INDEX ix_volume_sources_sop_instance_uid ON volume_sources (sop_instance_uid);
CREATE INDEX ix_volumes_conversion_id ON volumes (conversion_id);
CREATE VIEW v_patients AS 
        SELECT p.id, p.patient_id, p.issuer_of_patient_id, p.patient_name, p.patient_birth_date, p.patient_sex,
               (SELECT count(*) FROM studies st WHERE st.patient_id = p.id) AS studies, p.merged_into
        FROM patients p;
CREATE VIEW v_failures AS 
        SELECT se.series_instance_uid, st.study_instance_uid, f.revision, f.stack, f.reason, f.detail, f.failed_at
        FROM failures f JOIN series se ON se.id = f.series_id JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_events AS 
        SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, revision, detail, happened_at
        FROM events;
CREATE VIEW v_rejections AS 
        SELECT what, rule, peer, calling_ae_title, called_ae_title, offered, reason, remedy, "count", first_at, last_at
        FROM rejections;
CREATE VIEW v_deletions AS 
        SELECT level, uid, reason, ordered_at, finished_at FROM tombstones;
CREATE INDEX ix_patients_patient_name_alphabetic ON patients (patient_name_alphabetic);
CREATE INDEX ix_patients_patient_name_ideographic ON patients (patient_name_ideographic);
CREATE INDEX ix_patients_patient_name_phonetic ON patients (patient_name_phonetic);
CREATE INDEX ix_images_series_id_missing ON images (series_id) WHERE file_missing;
CREATE INDEX ix_commitments_state_due_at ON commitments (state, due_at);
CREATE VIEW v_commitments AS
    SELECT transaction_uid, calling_ae_title, peer, instances, state, attempts, failed, detail, requested_at, due_at,
           ended_at
    FROM commitments;
CREATE INDEX ix_web_sessions_account_id ON web_sessions (account_id);
CREATE INDEX ix_deliveries_hook_state_due_at ON deliveries (hook, state, due_at);
CREATE INDEX ix_deliveries_hook_study_instance_uid ON deliveries (hook, study_instance_uid);
CREATE VIEW v_senders AS
        SELECT calling_ae_title, quiet_seconds, json_array_length(gaps) AS series,
               (SELECT max(CAST(value AS FLOAT)) FROM json_each(gaps)) AS longest_gap_seconds, learnt_at
        FROM senders;
CREATE VIEW v_sources AS 
        SELECT se.series_instance_uid, st.study_instance_uid, c.revision, s.stack, s.sop_instance_uid, s.sha256, s.frames
        FROM volume_sources s JOIN conversions c ON c.id = s.conversion_id JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_exclusions AS 
        SELECT se.series_instance_uid, st.study_instance_uid, c.revision, x.sop_instance_uid, x.frames, x.reason, x.detail
        FROM exclusions x JOIN conversions c ON c.id = x.conversion_id JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_studies AS 
        SELECT st.study_instance_uid, st.patient_id AS patient, p.patient_id, p.patient_name, p.patient_birth_date, p.patient_sex,
               st.study_date, st.study_time, st.accession_number, st.study_id, st.study_description,
               st.referring_physician_name,
               (SELECT count(*) FROM series se WHERE se.study_id = st.id) AS series,
               (SELECT count(*) FROM images i JOIN series se ON se.id = i.series_id WHERE se.study_id = st.id)
                   AS instances,
               (SELECT max(se.last_received_at) FROM series se WHERE se.study_id = st.id) AS last_received_at,
               CASE WHEN st.closed_at IS NULL AND NOT EXISTS (
                   SELECT 1 FROM series se WHERE se.study_id = st.id AND se.state IN ('receiving', 'converting')
               ) THEN st.quiet_at END AS quiet_at
        FROM studies st JOIN patients p ON p.id = st.patient_id;
CREATE VIEW v_conflicts AS 
        SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, detail,
               coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END
                FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || conflicts."key" AS path, sha256,
               calling_ae_title, found_at, decision, decided_at, decided_by
        FROM conflicts;
CREATE INDEX ix_keyed_requests_began_at ON keyed_requests (began_at);
CREATE INDEX ix_series_references_series_id ON series_references (series_id);
CREATE INDEX ix_series_references_series_instance_uid ON series_references (series_instance_uid);
CREATE INDEX ix_scheduled_steps_start_date ON scheduled_steps (start_date);
CREATE INDEX ix_scheduled_steps_study_instance_uid ON scheduled_steps (study_instance_uid);
CREATE INDEX ix_scheduled_steps_patient_id ON scheduled_steps (patient_id);
CREATE INDEX ix_scheduled_steps_accession_number ON scheduled_steps (accession_number);
CREATE INDEX ix_performed_steps_study_instance_uid ON performed_steps (study_instance_uid);
CREATE INDEX ix_performed_series_performed_step_id ON performed_series (performed_step_id);
CREATE INDEX ix_performed_series_series_instance_uid ON performed_series (series_instance_uid);
CREATE INDEX ix_series_doubted ON series (study_id) WHERE verdict IN ('suspect', 'incomplete');
CREATE INDEX ix_failures_of_images ON failures (series_id) WHERE reason <> 'not-an-image';
CREATE INDEX ix_series_modality_study_id ON series (modality, study_id);
CREATE INDEX ix_series_series_description_study_id ON series (series_description, study_id);
CREATE INDEX ix_studies_study_description ON studies (study_description);
CREATE VIEW v_series AS
        SELECT se.series_instance_uid, st.study_instance_uid, se.modality, se.series_number, se.series_description,
               se.body_part_examined, se.protocol_name, se.manufacturer, se.manufacturer_model_name,
               se.series_date, se.series_time,
               se.state, se.verdict, CASE WHEN se.verdict <> 'complete' THEN se.verdict WHEN se.verdict_rule IN ('mpps', 'c-find', 'headers') THEN 'verified' WHEN se.verdict = 'complete' THEN 'no gap seen' END AS certainty, se.verdict_rule, se.verdict_reason, se.expected_instances, se.expected_source,
               se.missing_instances, se.missing_detail,
               (SELECT count(*) FROM images i WHERE i.series_id = se.id) AS instances,
               se.revision, se.open_since, se.last_received_at, se.due_at, se.attempts, se.error, CASE WHEN se.acknowledged_problem = se.state || ' ' || coalesce(se.verdict, 'unknown') || ' ' || se.revision THEN se.acknowledged_reason END AS acknowledged_reason, CASE WHEN se.acknowledged_problem = se.state || ' ' || coalesce(se.verdict, 'unknown') || ' ' || se.revision THEN se.acknowledged_by END AS acknowledged_by, CASE WHEN se.acknowledged_problem = se.state || ' ' || coalesce(se.verdict, 'unknown') || ' ' || se.revision THEN se.acknowledged_at END AS acknowledged_at
        FROM series se JOIN studies st ON st.id = se.study_id;
CREATE VIEW v_catalog AS 
    SELECT st.study_instance_uid, se.series_instance_uid, c.revision, v.stack, v.suffix,
           st.patient_id AS patient, p.patient_id, p.patient_sex,
           CASE WHEN st.patient_age GLOB '[0-9][0-9][0-9][YMWD]' THEN CAST(substr(st.patient_age, 1, 3) AS FLOAT) /
               CASE substr(st.patient_age, 4) WHEN 'Y' THEN 1.0 WHEN 'M' THEN 12.0 WHEN 'W' THEN 52.1775
               ELSE 365.2425 END END AS patient_age,
           st.study_date, st.study_description, st.accession_number,
           +se.modality AS modality, se.series_number, se.series_description, se.protocol_name, se.body_part_examined,
           se.manufacturer, se.manufacturer_model_name, v.magnetic_field_strength_t,
           v.weighting, v.sequence, v.repetition_time_ms, v.echo_time_ms, v.inversion_time_ms, v.flip_angle_degrees,
           v.contrast_agent, v.convolution_kernel,
           v.orientation, v.geometry,
           json_extract(v.shape, '$[0]') AS columns, json_extract(v.shape, '$[1]') AS rows,
           json_extract(v.shape, '$[2]') AS slices, coalesce(json_extract(v.shape, '$[3]'), 1) AS times,
           json_extract(v.spacing_mm, '$[0]') AS column_spacing_mm,
           json_extract(v.spacing_mm, '$[1]') AS row_spacing_mm,
           json_extract(v.spacing_mm, '$[2]') AS slice_spacing_mm,
           v.slice_thickness_mm, v.affine_lps, v.dtype, v.warnings,
           se.verdict, se.state, v.instances, v.format,
           coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END
                FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || v.path AS path,
           v.bytes, v.sha256, c.created_at
    FROM studies st JOIN patients p ON p.id = st.patient_id JOIN series se ON se.study_id = st.id
    JOIN conversions c ON c.series_id = +se.id JOIN volumes v ON v.conversion_id = +c.id
    WHERE v.kind = 'volume' AND NOT c.superseded AND c.files_removed_at IS NULL
      AND v.id = (
          SELECT o.id FROM volumes o
          WHERE o.conversion_id = v.conversion_id AND o.stack = v.stack AND o.suffix = v.suffix AND o.kind = 'volume'
          ORDER BY o.format <> 'nifti', o.id LIMIT 1
      );
CREATE INDEX ix_workitems_state ON workitems (state);
CREATE INDEX ix_workitems_patient_id ON workitems (patient_id);
CREATE INDEX ix_workitem_reports_workitem_id ON workitem_reports (workitem_id);
CREATE INDEX ix_sent_instances_transaction_uid ON sent_instances (transaction_uid);
CREATE INDEX ix_sent_instances_unconfirmed ON sent_instances (subscriber) WHERE state IN ('owed', 'asked');
CREATE VIEW v_deliveries AS 
        SELECT message_id, hook, event, study_instance_uid, series_instance_uid, sop_instance_uid, revision, detail,
               happened_at, state, attempts, due_at, reason, output, last_at
        FROM deliveries WHERE instr(hook, '/') = 0;
CREATE VIEW v_route_messages AS 
        SELECT message_id, substr(hook, 1, instr(hook, '/') - 1) AS route, substr(hook, instr(hook, '/') + 1) AS destination, event, study_instance_uid, series_instance_uid, sop_instance_uid,
               revision, happened_at, state, attempts, due_at, reason, last_at
        FROM deliveries WHERE instr(hook, '/') > 0;
CREATE VIEW v_sent_instances AS 
        SELECT substr(s.subscriber, 1, instr(s.subscriber, '/') - 1) AS route, substr(s.subscriber, instr(s.subscriber, '/') + 1) AS destination, st.study_instance_uid, se.series_instance_uid, i.sop_instance_uid,
               s.sop_instance_uid AS sent_sop_instance_uid, s.sha256, s.state, s.sent_at, s.asked_at, s.confirmed_at
        FROM sent_instances s JOIN images i ON i.id = s.image_id JOIN series se ON se.id = i.series_id
             JOIN studies st ON st.id = se.study_id;
CREATE INDEX ix_jobs_hook_message_id ON jobs (hook, message_id);
CREATE INDEX ix_jobs_state_due_at ON jobs (state, due_at);
CREATE INDEX ix_jobs_study_instance_uid ON jobs (study_instance_uid);
CREATE INDEX ix_jobs_series_instance_uid ON jobs (series_instance_uid);
CREATE INDEX ix_results_source_series_instance_uid ON results (source_series_instance_uid);
CREATE INDEX ix_results_series_instance_uid ON results (series_instance_uid);
CREATE INDEX ix_retrievals_state ON retrievals (state);
CREATE INDEX ix_retrievals_study_instance_uid ON retrievals (study_instance_uid);
CREATE INDEX ix_workitems_work_key_work_of ON workitems (work_key, work_of);
CREATE INDEX ix_workitems_under_cancellation ON workitems (work_of) WHERE cancelled_by IS NOT NULL AND ended_at IS NULL;
CREATE VIEW v_hooks AS 
        SELECT h.name AS hook,
               CASE WHEN h.image_id IS NOT NULL THEN (SELECT count(*) FROM images i WHERE i.id > h.image_id) END AS instances_behind,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'waiting') AS waiting,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'given-up') AS given_up,
               h.delivered, h.delivered_at
        FROM hooks h WHERE instr(h.name, '/') = 0;
CREATE VIEW v_routes AS 
        SELECT substr(h.name, 1, instr(h.name, '/') - 1) AS route, substr(h.name, instr(h.name, '/') + 1) AS destination, h.paused, h.trouble, h.trouble_since, h.retry_at,
               CASE WHEN h.image_id IS NOT NULL THEN (SELECT count(*) FROM images i WHERE i.id > h.image_id) END AS instances_behind, CASE WHEN h.image_id IS NULL THEN (
                   SELECT count(DISTINCT e.series_instance_uid) FROM events e WHERE e.id > h.event_id
               ) END AS series_behind,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'waiting') AS waiting,
               (SELECT min(d.happened_at) FROM deliveries d WHERE d.hook = h.name AND d.state = 'waiting')
                   AS waiting_since,
               (SELECT count(*) FROM deliveries d WHERE d.hook = h.name AND d.state = 'given-up') AS given_up,
               (SELECT count(*) FROM sent_instances s WHERE s.subscriber = h.name AND s.state IN ('owed', 'asked'))
                   AS unconfirmed,
               h.delivered, h.delivered_at
        FROM hooks h WHERE instr(h.name, '/') > 0;
CREATE INDEX ix_images_spooled ON images ("key") WHERE place = 'spool';
CREATE INDEX ix_images_series_id_spool_host ON images (series_id, spool_host) WHERE spool_host IS NOT NULL;
CREATE VIEW v_images AS
        SELECT i.sop_instance_uid, se.series_instance_uid, st.study_instance_uid, i.sop_class_uid,
               i.transfer_syntax_uid, i.instance_number, i.number_of_frames, i."rows", i."columns",
               i.bytes, i.sha256, i.data_set_offset,
               coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END
                FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || i."key" AS path,
               i.file_missing, i.place, i.spool_host, i.source, i.calling_ae_title, i.called_ae_title, i.peer, i.received_at
        FROM images i JOIN series se ON se.id = i.series_id JOIN studies st ON st.id = se.study_id;
CREATE INDEX ix_revision_files_conversion_id ON revision_files (conversion_id);
CREATE INDEX ix_revision_files_spooled ON revision_files ("key") WHERE place = 'spool';
CREATE VIEW v_volumes AS 
        SELECT se.series_instance_uid, st.study_instance_uid, c.revision, c.superseded, v.stack, v.suffix, v.kind,
               v.format, coalesce((SELECT CASE WHEN count(*) = 1 THEN substr(max(file), 1, length(max(file)) - 12) END
                FROM pragma_database_list WHERE substr(file, -13) = '/index.sqlite'), '') || v.path AS path,
               v.shape, v.spacing_mm, v.dtype, v.geometry, v.orientation, v.affine_lps, v.slice_thickness_mm, v.repetition_time_ms, v.echo_time_ms, v.inversion_time_ms, v.flip_angle_degrees, v.magnetic_field_strength_t, v.sequence, v.weighting, v.contrast_agent, v.convolution_kernel, v.instances, v.warnings, v.bytes, v.sha256, (SELECT f.place FROM revision_files f WHERE f."key" = v.path) AS place, c.converter,
               c.created_at, c.files_removed_at
        FROM volumes v JOIN conversions c ON c.id = v.conversion_id
        JOIN series se ON se.id = c.series_id JOIN studies st ON st.id = se.study_id;
CREATE INDEX ix_audit_lines_at ON audit_lines (at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('workitems',1);
INSERT INTO "sqlite_sequence" VALUES('workitem_reports',1);
COMMIT;
